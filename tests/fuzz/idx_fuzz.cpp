#include <cstdlib>
#include <span>

#include "anneal/core/error.h"
#include "anneal/data/idx.h"
#include "anneal/tests/data/gzip.h"
#include "anneal/tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const anneal::Tensor x = anneal::parse_idx(std::as_bytes(std::span(data, size)));
    if (x.to_vector().size() != static_cast<std::size_t>(x.numel())) std::abort();
  } catch (const anneal::Error&) {}
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  using namespace std::string_literals;
  std::vector<std::string> seeds{
      "\0\0\x08\3\0\0\0\1\0\0\0\2\0\0\0\3abcdef"s,
      "\0\0\x09\1\0\0\0\3abc"s,
      "\0\0\x0b\1\0\0\0\2abcd"s,
      "\0\0\x0c\2\0\0\0\1\0\0\0\1abcd"s,
      "\0\0\x0d\1\0\0\0\1abcd"s,
      "\0\0\x0e\1\0\0\0\1abcdefgh"s,
      "\0\0\x08\2\0\0\0\0\0\0\0\5"s,
  };
  for (std::size_t i = 0; i < 7; ++i) seeds.push_back(anneal::testing::gzipped(seeds[i]));
  return seeds;
}
