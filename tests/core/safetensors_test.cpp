#include "anneal/core/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "anneal/core/error.h"
#include "anneal/core/ops.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;
using anneal::testing::read_text;
using anneal::testing::TempFolder;
using anneal::testing::write_file;
namespace fs = std::filesystem;

namespace {

// Of the calls that write a file, how many go well before one fails; -1: all.
int calls_left = -1;

bool fails() {
  if (calls_left < 0) return false;
  errno = EIO;
  return calls_left-- == 0;
}

}  // namespace

// These come before the C library's.
extern "C" {
ssize_t write(int fd, const void* bytes, std::size_t size) {
  return fails() ? -1 : ::syscall(SYS_write, fd, bytes, size);
}
int fsync(int fd) { return fails() ? -1 : static_cast<int>(::syscall(SYS_fsync, fd)); }
int close(int fd) { return static_cast<int>(::syscall(SYS_close, fd)) != 0 || fails() ? -1 : 0; }
int rename(const char* from, const char* to) noexcept {
  return fails() ? -1 : ::renameat(AT_FDCWD, from, AT_FDCWD, to);
}
}

namespace {

std::string file_of(const std::string& header, const std::string& data = {}) {
  std::uint64_t n = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + header + data;
}
SafetensorsFile parse(const std::string& bytes) { return parse_safetensors(std::as_bytes(std::span(bytes)), "f"); }
std::string error_of(const std::string& bytes) {
  return message_of<Error>([&] { parse(bytes); });
}

const std::string entry = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
const std::string four(4, '\0');

std::vector<NamedTensor> all_dtypes() {
  std::vector<NamedTensor> tensors;
  for (const DType dtype :
       {DType::boolean, DType::u8, DType::bf16, DType::f16, DType::f32, DType::i32, DType::f64, DType::i64}) {
    const Tensor x = empty({2, 3}, {.dtype = dtype});
    auto* bytes = static_cast<std::uint8_t*>(x.raw());
    // Bits of all kinds, NaNs with payloads among them: they must survive.
    for (std::size_t i = 0; i < 6 * size_of(dtype); ++i)
      bytes[i] = dtype == DType::boolean ? i % 2 : static_cast<std::uint8_t>(255 - 7 * i);
    tensors.push_back({std::string("t.") + name_of(dtype), x});
  }
  return tensors;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const auto bytes = [](const Tensor& x) {
    return std::string(static_cast<const char*>(x.raw()), static_cast<std::size_t>(x.numel()) * size_of(x.dtype()));
  };
  return a.dtype() == b.dtype() && a.shape() == b.shape() && bytes(a) == bytes(b);
}

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

}  // namespace

TEST(Safetensors, KeepsEveryDtypeToTheBit) {
  const TempFolder folder;
  auto tensors = all_dtypes();
  tensors.push_back({"", scalar(7)});
  tensors.push_back({"none", empty({3, 0, 2})});
  tensors.push_back({"ü \"quoted\"\n", arange(3)});
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"line\nbreak", "\"\\"}, {"", ""}};
  save_safetensors(folder / "m.safetensors", tensors, metadata);
  const SafetensorsFile file = load_safetensors(folder / "m.safetensors");
  EXPECT_EQ(file.metadata, metadata);
  ASSERT_EQ(file.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_NE(file.find(name), nullptr) << name;
    EXPECT_TRUE(same_bits(*file.find(name), tensor)) << name;
  }
  EXPECT_EQ(file.find("t"), nullptr);
  EXPECT_EQ(files_in(folder.path()), 1u);

  const std::string bytes = read_text(folder / "m.safetensors");
  const SafetensorsFile parsed = parse(bytes);
  for (std::size_t i = 0; i < parsed.tensors.size(); ++i) {
    EXPECT_EQ(parsed.tensors[i].name, file.tensors[i].name);
    EXPECT_TRUE(same_bits(parsed.tensors[i].tensor, file.tensors[i].tensor));
  }
}

TEST(Safetensors, LaysTensorsOutAligned) {
  const TempFolder folder;
  save_safetensors(folder / "m", all_dtypes());
  const std::string bytes = read_text(folder / "m");
  std::uint64_t n;
  std::memcpy(&n, bytes.data(), 8);
  EXPECT_EQ(n % 8, 0u);
  EXPECT_EQ(bytes[8], '{');
  std::size_t offset = 0;
  for (const auto& [name, tensor] : load_safetensors(folder / "m").tensors) {
    EXPECT_EQ(offset % size_of(tensor.dtype()), 0u) << name;
    offset += 6 * size_of(tensor.dtype());
  }
}

TEST(Safetensors, WritesViewsAndNothing) {
  const TempFolder folder;
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3});
  save_safetensors(folder / "view", std::vector<NamedTensor>{{"t", x.transpose(0, 1)}, {"s", x.select(1, 1)}});
  const SafetensorsFile file = load_safetensors(folder / "view");
  EXPECT_EQ(file.find("t")->to_vector(), (std::vector<double>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(file.find("s")->to_vector(), (std::vector<double>{2, 5}));
  save_safetensors(folder / "none", {});
  EXPECT_TRUE(load_safetensors(folder / "none").tensors.empty());
  EXPECT_EQ(read_text(folder / "none"), file_of("{}      "));
}

TEST(Safetensors, WritesParametersOutsideTheirGraph) {
  const TempFolder folder;
  const Tensor w = ones({2}, {.requires_grad = true});
  save_safetensors(folder / "m", std::vector<NamedTensor>{{"w", w}, {"y", w * 2.0}});
  EXPECT_FALSE(load_safetensors(folder / "m").find("y")->requires_grad());
}

TEST(Safetensors, RefusesToWriteWhatCannotBeRead) {
  const TempFolder folder;
  const auto save = [&](std::vector<NamedTensor> tensors, std::map<std::string, std::string> metadata = {}) {
    return message_of<Error>([&] { save_safetensors(folder / "m", tensors, metadata); });
  };
  EXPECT_NE(save({{"a", ones({1})}, {"a", ones({1})}}).find("\"a\" is taken"), std::string::npos);
  EXPECT_NE(save({{"__metadata__", ones({1})}}), "");
  EXPECT_NE(save({{"a", Tensor()}}).find("\"a\" is undefined"), std::string::npos);
  EXPECT_NE(save({{"\xff", ones({1})}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(save({}, {{"k", "\xc3"}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(save({}, {{"k", std::string(100'000'000, 'x')}}).find("at most 100000000"), std::string::npos);
  EXPECT_EQ(files_in(folder.path()), 0u);
}

TEST(Safetensors, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const TempFolder folder;
  const auto path = folder / "m";
  save_safetensors(path, std::vector<NamedTensor>{{"a", full({4}, 1)}});
  const std::string before = read_text(path);

  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{1 << 16, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = message_of<Error>([&] {
    save_safetensors(path, std::vector<NamedTensor>{{"a", full({1 << 16}, 2)}});
  });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_NE(error.find("cannot write"), std::string::npos) << error;
  EXPECT_EQ(read_text(path), before);
  EXPECT_EQ(files_in(folder.path()), 1u);

  fs::create_directories(folder / "d/e");
  EXPECT_NE(message_of<Error>([&] { save_safetensors(folder / "d", {}); }).find("cannot replace"), std::string::npos);
  EXPECT_EQ(files_in(folder.path()), 2u);
  EXPECT_NE(message_of<Error>([&] { save_safetensors(folder / "no/m", {}); }).find("cannot write"), std::string::npos);
}

TEST(Safetensors, AnyCallThatFailsLeavesTheOldFileOrTheNewOne) {
  const TempFolder folder;
  const auto path = folder / "m";
  save_safetensors(path, std::vector<NamedTensor>{{"a", full({4}, 1)}});
  const std::string before = read_text(path);
  int failed = 0;
  for (bool replaced = false; !replaced; ++failed) {
    calls_left = failed;
    const std::string error = message_of<Error>([&] {
      save_safetensors(path, std::vector<NamedTensor>{{"a", full({4}, 2)}, {"b", full({4}, 3)}});
    });
    calls_left = -1;
    EXPECT_NE(error, "") << failed;
    EXPECT_EQ(files_in(folder.path()), 1u) << error;
    replaced = read_text(path) != before;
  }
  // The size, the header, two tensors, and then sync, close, rename; at last the folder's sync.
  EXPECT_EQ(failed, 8);
  EXPECT_EQ(load_safetensors(path).find("b")->to_vector(), (std::vector<double>{3, 3, 3, 3}));
}

TEST(Safetensors, NamesTheFileThatCannotBeRead) {
  const TempFolder folder;
  EXPECT_NE(message_of<Error>([&] { load_safetensors(folder / "absent"); }).find("absent: cannot open"),
            std::string::npos);
  EXPECT_NE(message_of<Error>([&] { load_safetensors(folder.path()); }), "");
  write_file(folder / "short", "1234567");
  EXPECT_NE(
      message_of<Error>([&] { load_safetensors(folder / "short"); }).find("short: expected at least 8 bytes, got 7"),
      std::string::npos);
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  EXPECT_EQ(parse(file_of("{}")).tensors.size(), 0u);
  EXPECT_EQ(parse(file_of(" \t\r\n{} \t\r\n")).tensors.size(), 0u);
  EXPECT_EQ(parse(file_of("{" + entry + "}", four)).find("a")->item(), 0);
  EXPECT_EQ(parse(file_of(R"({"__metadata__":{"a":"b"}})")).metadata.at("a"), "b");
  EXPECT_TRUE(parse(file_of(R"({"__metadata__":null})")).metadata.empty());
  // Fields in any order, unknown ones skipped, \u escapes, an empty tensor between two others, names out of order.
  const SafetensorsFile file = parse(file_of(
      R"({"b":{"data_offsets":[1,2],"x":{"dtype":[{}]},"shape":[1],"y":[[1.5,"s",null,-1,true]],"dtype":"U8"},)"
      R"("\u0061":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]},"e":{"dtype":"I64","shape":[4,0],"data_offsets":[1,1]}})",
      std::string("\1\2", 2)));
  ASSERT_EQ(file.tensors.size(), 3u);
  EXPECT_EQ(file.tensors[0].name, "a");
  EXPECT_EQ(file.tensors[1].name, "e");
  EXPECT_EQ(file.tensors[1].tensor.shape(), (Shape{4, 0}));
  EXPECT_EQ(file.find("b")->item(), 2);
  EXPECT_EQ(file.find("a")->shape(), Shape{});
}

TEST(Safetensors, RefusesWhatItDoesNot) {
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string deep(50000, '[');
  const struct {
    std::string bytes, says;
  } cases[] = {
      {"", "at least 8 bytes, got 0"},
      {"1234567", "at least 8 bytes, got 7"},
      {std::string("\x01\0\0\0\0\0\0\0", 8), "header of 1 bytes, but only 0"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8), "at most 100000000"},
      {std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), "header of 100000001 bytes; at most"},
      {file_of(""), "not a JSON object"},
      {file_of("[]"), "not a JSON object"},
      {file_of("\xef\xbb\xbf{}"), "not a JSON object"},
      {file_of(std::string("{}\0", 3)), "not a JSON object"},
      {file_of("{"), "not JSON"},
      {file_of("{}x"), "not JSON"},
      {file_of("{} {}"), "not JSON"},
      {file_of("{\"\xff\":1}"), "not JSON"},
      {file_of(R"({"\ud800":1})"), "not JSON"},
      {file_of("{\"a\":/**/1}"), "not JSON"},
      {file_of(R"({"a":{"dtype":"F32",})"), "not JSON"},
      {file_of("{\"a\":" + deep), "\"a\": did not expect an array"},
      {file_of("{\"a\":{\"x\":" + deep), "nested too deeply"},
      {file_of(R"({"a":1})"), "\"a\": did not expect a number"},
      {file_of(R"({"a":null})"), "\"a\": did not expect null"},
      {file_of("{" + entry + "," + entry + "}", four), "\"a\": key twice"},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})"), "key twice"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "\"k\": key twice"},
      {file_of(R"({"__metadata__":{"k":1}})"), "\"k\": did not expect a number"},
      {file_of(R"({"__metadata__":{"k":{}}})"), "\"k\": did not expect an object"},
      {file_of(R"({"__metadata__":[]})"), "did not expect an array"},
      {file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four), "dtype: key twice"},
      {file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", four), "tensor \"a\", dtype: missing"},
      {file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", four), "shape: missing"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1]}})", four), "data_offsets: missing"},
      {file_of(tensor("f32", "[1]", "[0,4]"), four), "dtype \"f32\" is none of"},
      {file_of(tensor("I16", "[2]", "[0,4]"), four), "dtype \"I16\" is none of"},
      {file_of(tensor("F4", "[2]", "[0,1]"), "1"), "dtype \"F4\" is none of"},
      {file_of(tensor("F32", "[-1]", "[0,4]"), four), "shape: did not expect a negative number"},
      {file_of(tensor("F32", "[-0]", "[0,4]"), four), "shape: did not expect a negative number"},
      {file_of(tensor("F32", "[1.0]", "[0,4]"), four), "shape: did not expect 1.0"},
      {file_of(tensor("F32", "[1e0]", "[0,4]"), four), "shape: did not expect 1e0"},
      {file_of(tensor("F32", "[\"1\"]", "[0,4]"), four), "shape: did not expect a string"},
      {file_of(tensor("F32", "[[1]]", "[0,4]"), four), "shape: did not expect an array"},
      {file_of(tensor("F32", "1", "[0,4]"), four), "shape: did not expect a number"},
      {file_of(tensor("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), four), "shape: more than 8 numbers"},
      {file_of(tensor("F32", "[18446744073709551616]", "[0,4]"), four), "shape: did not expect 18446744073709551616"},
      {file_of(tensor("F32", "[18446744073709551615]", "[0,4]"), four), "too large for 64 bits"},
      {file_of(tensor("F32", "[4294967296,4294967296]", "[0,0]")), "too large for 64 bits"},
      {file_of(tensor("F32", "[4611686018427387904]", "[0,0]")), "too large for 64 bits"},
      {file_of(tensor("F32", "[0,4294967296,4294967296]", "[0,0]")), "too large for 64 bits"},
      {file_of(tensor("F32", "[1]", "[0]"), four), "expected [begin, end]"},
      {file_of(tensor("F32", "[1]", "[0,4,4]"), four), "expected [begin, end]"},
      {file_of(tensor("F32", "[1]", "[4,0]"), four), "expected [begin, end]"},
      {file_of(tensor("F32", "[2]", "[0,4]"), four), "f32 [2] has 8 bytes, data_offsets [0, 4] have 4"},
      {file_of(tensor("F32", "[1]", "[1,5]"), four + "5"), "\"a\" begins at 1; the one before it ends at 0"},
      {file_of(tensor("F32", "[1]", "[0,4]"), four + "5"), "the tensors have 4 bytes, the file has 5"},
      {file_of(tensor("F32", "[1]", "[0,4]"), "123"), "the tensors have 4 bytes, the file has 3"},
      {file_of(tensor("BOOL", "[2]", "[0,2]"), std::string("\0\2", 2)), "neither 0 nor 1"},
      {file_of("{" + entry + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four),
       "begins at 0; the one before"},
      {file_of("{" + entry + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", four + "12"), "begins at 2"},
      {file_of("{" + entry + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})", four + "12345"),
       "begins at 5"},
      {file_of("{" + entry + R"(,"e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}})", four), "\"e\" begins at 2"},
  };
  for (const auto& [bytes, says] : cases) {
    const std::string error = error_of(bytes);
    EXPECT_NE(error.find(says), std::string::npos)
        << bytes.substr(0, 200) << "\nexpected: " << says << "\ngot: " << error;
    EXPECT_EQ(error.rfind("f: ", 0), 0u) << error;
  }
}

TEST(Safetensors, ReadsNoPartOfAFile) {
  const TempFolder folder;
  save_safetensors(folder / "m", all_dtypes(), {{"k", "v"}});
  const std::string bytes = read_text(folder / "m");
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_NE(error_of(bytes.substr(0, n)), "") << n;
    write_file(folder / "part", std::string_view(bytes).substr(0, n));
    EXPECT_NE(message_of<Error>([&] { load_safetensors(folder / "part"); }), "") << n;
  }
  EXPECT_NE(error_of(bytes + '\0'), "");
}

// The files that the reference implementation's tests are about, with what it makes of them.
TEST(Safetensors, AgreesWithTheReferenceOnItsCases) {
  const auto folder = fs::path(__FILE__).parent_path() / "../../../shared/data/weights/safetensors-cases";
  std::ifstream table(folder / "EXPECT.tsv");
  if (!table) GTEST_SKIP() << "no shared/data/weights/safetensors-cases beside the project: its files were not read";
  std::string line;
  std::getline(table, line);
  int files = 0;
  while (std::getline(table, line)) {
    const std::string name = line.substr(0, line.find('\t'));
    const auto load = [&] { load_safetensors(folder / name); };
    if (name.starts_with("ok_") || name.starts_with("lenient_")) EXPECT_NO_THROW(load()) << line;
    else EXPECT_THROW(load(), Error) << line;
    ++files;
  }
  EXPECT_GT(files, 30);
}
