#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>

#include "anneal/core/error.h"
#include "anneal/core/safetensors.h"
#include "anneal/tests/fuzz/fuzz.h"

namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t n = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + header + data;
}

void parse(std::span<const std::uint8_t> bytes) {
  try {
    const anneal::SafetensorsFile file = anneal::parse_safetensors(std::as_bytes(bytes));
    // What was accepted lies within the input: all of it is read here.
    std::size_t total = 0;
    for (const auto& [name, tensor] : file.tensors) {
      total += static_cast<std::size_t>(tensor.numel()) * anneal::size_of(tensor.dtype());
      if (tensor.to_vector().size() != static_cast<std::size_t>(tensor.numel()) ||
          file.find(name)->dtype() != tensor.dtype())
        std::abort();
    }
    if (total > bytes.size()) std::abort();
  } catch (const anneal::Error&) {}
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(data, size);
  parse(bytes);
  // Few mutations keep the header's length right: the same once more with the length up to the last brace.
  std::vector<std::uint8_t> mended(bytes.begin(), bytes.end());
  const auto brace = std::find(mended.rbegin(), mended.rend(), '}').base() - mended.begin();
  if (brace > 8) {
    const auto n = static_cast<std::uint64_t>(brace) - 8;
    std::memcpy(mended.data(), &n, 8);
    parse(mended);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      file_of("{}", ""),
      file_of(
          R"({"__metadata__":{"format":"pt","\u00e9":""},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
          R"("b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"none":{"dtype":"I64","shape":[3,0],"data_offsets":[10,10]}} )",
          "0123456789"),
      file_of(R"({"m":{"shape":[3],"x":[{"y":[1.5,-1,null,true]}],"dtype":"BOOL","data_offsets":[0,3]}})",
              std::string("\0\1\1", 3)),
  };
}
