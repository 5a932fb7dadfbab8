#include "anneal/core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "anneal/core/autograd.h"
#include "anneal/core/file.h"

namespace anneal {
inline namespace v0 {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are written as they lie in memory");

constexpr std::uint64_t max_header = 100'000'000;
constexpr const char* metadata_key = "__metadata__";

struct {
  const char* name;
  DType dtype;
} constexpr dtypes[] = {{"F64", DType::f64}, {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16},
                        {"I64", DType::i64}, {"I32", DType::i32}, {"U8", DType::u8},   {"BOOL", DType::boolean}};

// ---- the header ----

struct Entry {
  std::string name;
  DType dtype{};
  Shape shape;
  std::uint64_t begin = 0, end = 0;
};
struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

// Follows the JSON text event by event: nothing is built that the format does not have, and depth costs no stack.
class HeaderReader final : public nlohmann::json::json_sax_t {
 public:
  explicit HeaderReader(std::string_view file) : file_(file) {}

  Header take() && { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (at_ == At::start) {
      at_ = At::top;
    } else if (at_ == At::top && key_ == metadata_key) {
      at_ = At::metadata;
    } else if (at_ == At::top) {
      at_ = At::entry;
      seen_.clear();
      header_.entries.emplace_back().name = key_;
    } else {
      enter_ignored("an object");
    }
    return true;
  }
  bool end_object() override {
    if (at_ == At::ignored) return leave_ignored();
    if (at_ == At::entry) finish_entry();
    at_ = at_ == At::top ? At::start : At::top;
    return true;
  }
  bool key(std::string& text) override {
    if (at_ == At::ignored) return true;
    key_ = std::move(text);
    const bool fresh = at_ == At::metadata ? !header_.metadata.contains(key_)
                                           : (at_ == At::entry ? seen_ : names_).insert(key_).second;
    if (!fresh) fail("key twice");
    return true;
  }
  bool start_array(std::size_t) override {
    numbers_.clear();
    if (at_ == At::entry && (field("shape") || field("data_offsets"))) at_ = At::numbers;
    else enter_ignored("an array");
    return true;
  }
  bool end_array() override {
    if (at_ == At::ignored) return leave_ignored();
    at_ = At::entry;
    if (field("shape")) {
      shape_ = numbers_;
    } else {
      if (numbers_.size() != 2 || numbers_[0] > numbers_[1]) fail("expected [begin, end] with begin <= end");
      header_.entries.back().begin = numbers_[0];
      header_.entries.back().end = numbers_[1];
    }
    return true;
  }
  bool string(std::string& text) override {
    if (at_ == At::metadata) {
      header_.metadata.emplace(key_, std::move(text));
    } else if (at_ == At::entry && field("dtype")) {
      const auto* found = std::ranges::find(dtypes, text, [](const auto& d) { return std::string_view(d.name); });
      if (found == std::end(dtypes)) fail("dtype " + quoted(text) + " is none of F64 F32 F16 BF16 I64 I32 U8 BOOL");
      header_.entries.back().dtype = found->dtype;
    } else {
      ignore("a string");
    }
    return true;
  }
  bool number_unsigned(std::uint64_t n) override {
    if (at_ != At::numbers) return ignore("a number");
    if (numbers_.size() == Shape::max_rank) fail(format("more than {} numbers", Shape::max_rank));
    numbers_.push_back(n);
    return true;
  }
  bool null() override { return (at_ == At::top && key_ == metadata_key) || ignore("null"); }
  bool boolean(bool) override { return ignore("a boolean"); }
  bool number_integer(std::int64_t) override { return ignore("a negative number"); }
  bool number_float(double, const std::string& text) override { return ignore(text.c_str()); }
  bool binary(nlohmann::json::binary_t&) override { return ignore("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    throw Error(format("{}: the header is not JSON: {}", file_, error.what()));
  }

 private:
  enum class At { start, top, metadata, entry, numbers, ignored };
  static constexpr int max_depth = 128;

  static std::string quoted(const std::string& text) { return '"' + text.substr(0, 200) + '"'; }
  bool field(const char* name) const { return key_ == name; }
  // Fields of a tensor that the format does not know (yet) are skipped.
  bool skipping() const {
    return at_ == At::ignored || (at_ == At::entry && !field("dtype") && !field("shape") && !field("data_offsets"));
  }
  bool ignore(const char* what) const {
    if (!skipping()) fail(std::string("did not expect ") + what);
    return true;
  }
  void enter_ignored(const char* what) {
    ignore(what);
    if (++ignored_depth_ > max_depth) fail("nested too deeply");
    at_ = At::ignored;
  }
  bool leave_ignored() {
    if (--ignored_depth_ == 0) at_ = At::entry;
    return true;
  }

  void finish_entry() {
    Entry& entry = header_.entries.back();
    for (const char* needed : {"dtype", "shape", "data_offsets"}) {
      key_ = needed;
      if (!seen_.contains(needed)) fail("missing");
    }
    // Strides are made of the sizes that are not 0, so these must fit into 64 bits even where there are no elements.
    key_ = "shape";
    auto extent = static_cast<std::int64_t>(size_of(entry.dtype));
    std::vector<std::int64_t> sizes;
    for (const std::uint64_t n : shape_) {
      if (__builtin_mul_overflow(extent, std::max<std::uint64_t>(n, 1), &extent)) fail("too large for 64 bits");
      sizes.push_back(static_cast<std::int64_t>(n));
    }
    const bool none = std::ranges::find(shape_, 0u) != shape_.end();
    const std::uint64_t bytes = none ? 0 : static_cast<std::uint64_t>(extent);
    entry.shape = Shape(sizes);
    if (entry.end - entry.begin != bytes)
      fail(format("{} {} has {} bytes, data_offsets [{}, {}] have {}", name_of(entry.dtype), entry.shape, bytes,
                  entry.begin, entry.end, entry.end - entry.begin));
  }

  [[noreturn]] void fail(const std::string& what) const {
    std::string where = "header";
    if (at_ == At::entry || at_ == At::numbers || at_ == At::ignored)
      where = "tensor " + quoted(header_.entries.back().name) + ", " + key_;
    else if (at_ != At::start) where = quoted(key_);
    throw Error(format("{}: {}: {}", file_, where, what));
  }

  std::string_view file_;
  Header header_;
  At at_ = At::start;
  int ignored_depth_ = 0;
  std::string key_;                     // the last one read
  std::set<std::string> names_, seen_;  // the keys of the whole, and of the current tensor
  std::vector<std::uint64_t> numbers_, shape_;
};

std::uint64_t header_size(const std::byte (&first)[8], std::uint64_t file_bytes, std::string_view file) {
  const auto n = std::bit_cast<std::uint64_t>(first);
  check(n <= max_header, "{}: header of {} bytes; at most {} are allowed", file, n, max_header);
  check(n <= file_bytes - 8, "{}: header of {} bytes, but only {} follow", file, n, file_bytes - 8);
  return n;
}

Header parse_header(std::string_view text, std::uint64_t data_bytes, std::string_view file) {
  // The JSON reader would skip a byte order mark and take a NUL for the end.
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  check(first != text.npos && text[first] == '{' && text.find('\0') == text.npos, "{}: the header is not a JSON object",
        file);
  HeaderReader reader(file);
  nlohmann::json::sax_parse(text, &reader);
  Header header = std::move(reader).take();
  std::ranges::stable_sort(header.entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  std::uint64_t end = 0;
  for (const Entry& entry : header.entries) {
    check(entry.begin == end, "{}: tensor \"{}\" begins at {}; the one before it ends at {}", file, entry.name,
          entry.begin, end);
    end = entry.end;
  }
  check(end == data_bytes, "{}: the tensors have {} bytes, the file has {} for them", file, end, data_bytes);
  return header;
}

// `read(offset, bytes)` fills the bytes from the file's part after the header.
template <class Read>
SafetensorsFile read_tensors(Header header, std::string_view file, const Read& read) {
  SafetensorsFile out{{}, std::move(header.metadata)};
  out.tensors.reserve(header.entries.size());
  for (Entry& entry : header.entries) {
    const Tensor x = empty(entry.shape, {.dtype = entry.dtype});
    const std::span bytes(static_cast<std::byte*>(x.raw()), entry.end - entry.begin);
    read(entry.begin, bytes);
    check(entry.dtype != DType::boolean || std::ranges::all_of(bytes, [](std::byte b) { return b <= std::byte{1}; }),
          "{}: tensor \"{}\": a BOOL is neither 0 nor 1", file, entry.name);
    out.tensors.push_back({std::move(entry.name), x});
  }
  return out;
}

std::string write_header(std::span<const NamedTensor> tensors, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto quoted = [](const std::string& s) { return nlohmann::json(s).dump(); };
  if (!metadata.empty()) text += format("\"{}\":{},", metadata_key, nlohmann::json(metadata).dump());
  std::uint64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto* dtype = std::ranges::find(dtypes, tensor.dtype(), [](const auto& d) { return d.dtype; });
    const std::uint64_t begin = end;
    end += static_cast<std::uint64_t>(tensor.numel()) * size_of(tensor.dtype());
    text += format("{}:{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]},", quoted(name), dtype->name,
                   tensor.shape(), begin, end);
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8
  return text;
}

}  // namespace

const Tensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = std::ranges::find(tensors, name, &NamedTensor::name);
  return it == tensors.end() ? nullptr : &it->tensor;
}

void save_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                      const std::map<std::string, std::string>& metadata) {
  const NoGrad no_grad;
  std::set<std::string_view> names{metadata_key};
  for (const auto& [name, tensor] : tensors) {
    check(tensor.defined(), "{}: tensor \"{}\" is undefined", path.string(), name);
    check(names.insert(name).second, "{}: the name \"{}\" is taken", path.string(), name);
  }
  std::vector<NamedTensor> sorted(tensors.begin(), tensors.end());
  std::ranges::stable_sort(sorted, std::greater(), [](const NamedTensor& t) { return size_of(t.tensor.dtype()); });
  std::string header;
  try {
    header = write_header(sorted, metadata);
  } catch (const nlohmann::json::exception& error) {
    throw Error(format("{}: a name or metadata is not UTF-8: {}", path.string(), error.what()));
  }
  const std::uint64_t n = header.size();
  check(n <= max_header, "{}: the header would have {} bytes; at most {} are allowed", path.string(), n, max_header);

  Replacement file(path);
  file.write(std::as_bytes(std::span(&n, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const auto& [name, tensor] : sorted) {
    const Tensor x = tensor.to(Device{}).contiguous();
    const auto bytes = static_cast<std::size_t>(x.numel()) * size_of(x.dtype());
    file.write({static_cast<const std::byte*>(x.raw()), bytes});
  }
  file.commit();
}

SafetensorsFile load_safetensors(const std::filesystem::path& path) {
  const InputFile file(path);
  const std::string name = path.string();
  const std::uint64_t size = file.size();
  check(size >= 8, "{}: expected at least 8 bytes, got {}", name, size);
  std::byte first[8];
  file.read(0, first);
  std::string text(header_size(first, size, name), '\0');
  file.read(8, std::as_writable_bytes(std::span(text)));
  const std::uint64_t data = 8 + text.size();
  return read_tensors(parse_header(text, size - data, name), name,
                      [&](std::uint64_t offset, std::span<std::byte> to) { file.read(data + offset, to); });
}

SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::string_view name) {
  check(bytes.size() >= 8, "{}: expected at least 8 bytes, got {}", name, bytes.size());
  std::byte first[8];
  std::memcpy(first, bytes.data(), 8);
  const std::uint64_t n = header_size(first, bytes.size(), name);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, n);
  const auto data = bytes.subspan(8 + n);
  return read_tensors(parse_header(text, data.size(), name), name, [&](std::uint64_t offset, std::span<std::byte> to) {
    if (!to.empty()) std::memcpy(to.data(), data.data() + offset, to.size());
  });
}

}  // namespace v0
}  // namespace anneal
