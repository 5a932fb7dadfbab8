#include "anneal/data/idx.h"

#include <gtest/gtest.h>

#include "anneal/core/error.h"
#include "anneal/tests/data/gzip.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::gzipped;
using anneal::testing::message_of;
using anneal::testing::TempFolder;
using anneal::testing::write_file;
using namespace std::string_literals;

namespace {

using Values = std::vector<double>;

Tensor parse(const std::string& bytes) { return parse_idx(std::as_bytes(std::span(bytes)), "f"); }
std::string error_of(const std::string& bytes) {
  return message_of<Error>([&] { parse(bytes); });
}

const std::string small = "\0\0\x08\x02\0\0\0\2\0\0\0\3abcdef"s;

bool has_zlib() { return error_of(gzipped(small)).find("without zlib") == std::string::npos; }

}  // namespace

TEST(Idx, ReadsEveryType) {
  const Tensor u8 = parse(small);
  EXPECT_EQ(u8.dtype(), DType::u8);
  EXPECT_EQ(u8.shape(), (Shape{2, 3}));
  EXPECT_EQ(u8.to_vector(), (Values{97, 98, 99, 100, 101, 102}));

  const Tensor i8 = parse("\0\0\x09\1\0\0\0\5\x7f\x80\xff\0\1"s);
  EXPECT_EQ(i8.dtype(), DType::i32);
  EXPECT_EQ(i8.to_vector(), (Values{127, -128, -1, 0, 1}));

  const Tensor i16 = parse("\0\0\x0b\1\0\0\0\4\x01\x02\xff\xfe\x80\0\x7f\xff"s);
  EXPECT_EQ(i16.dtype(), DType::i32);
  EXPECT_EQ(i16.to_vector(), (Values{258, -2, -32768, 32767}));

  const Tensor i32 = parse("\0\0\x0c\1\0\0\0\2\x01\x02\x03\x04\xff\xff\xff\xfe"s);
  EXPECT_EQ(i32.dtype(), DType::i32);
  EXPECT_EQ(i32.to_vector(), (Values{16909060, -2}));

  const Tensor f32 = parse("\0\0\x0d\1\0\0\0\2\x3f\xc0\0\0\xc0\0\0\0"s);
  EXPECT_EQ(f32.dtype(), DType::f32);
  EXPECT_EQ(f32.to_vector(), (Values{1.5, -2}));

  const Tensor f64 = parse("\0\0\x0e\1\0\0\0\2\x3f\xf8\0\0\0\0\0\0\xc0\0\0\0\0\0\0\1"s);
  EXPECT_EQ(f64.dtype(), DType::f64);
  EXPECT_EQ(f64.to_vector(), (Values{1.5, -2.0000000000000004}));
}

TEST(Idx, ReadsTensorsWithoutElements) {
  EXPECT_EQ(parse("\0\0\x08\1\0\0\0\0"s).shape(), Shape{0});
  EXPECT_EQ(parse("\0\0\x0d\2\0\0\0\5\0\0\0\0"s).shape(), (Shape{5, 0}));
}

TEST(Idx, RefusesWhatIsNoIdxFile) {
  const struct {
    std::string bytes, says;
  } cases[] = {
      {"", "f: expected an IDX file, got 0 bytes"},
      {"\0\0\x08"s, "f: expected an IDX file, got 3 bytes"},
      {"PK\x08\1"s, "got 80 75 8"},
      {"\0\1\x08\1"s, "got 0 1 8"},
      {"\0\0\x0a\1\0\0\0\0"s, "got 0 0 10"},
      {"\0\0\x0f\1\0\0\0\0"s, "got 0 0 15"},
      {"\0\0\0\1\0\0\0\0"s, "got 0 0 0"},
      {"\0\0\x08\0a"s, "f: expected 1 to 8 dimensions, got 0"},
      {"\0\0\x08\x09"s + std::string(36, '\0'), "f: expected 1 to 8 dimensions, got 9"},
      {"\0\0\x08\2\0\0\0\1\0\0\0"s, "f: truncated: 2 dimensions need 8 bytes, got 7"},
      {small + "g", "f: bytes follow the 6 that shape [2, 3] needs"},
      {"\0\0\x08\1\0\0\0\0g"s, "f: bytes follow the 0 that shape [0] needs"},
      {small.substr(0, 17), "f: truncated: shape [2, 3] needs 6 bytes, at most 5 follow"},
      {"\0\0\x08\1\xff\xff\xff\xff"s, "f: truncated: shape [4294967295] needs 4294967295 bytes, at most 0 follow"},
      {"\0\0\x0e\3"s + std::string(12, '\xff'), "needs more bytes than 64 bits can count"},
      {"\0\0\x0e\4\0\0\0\0"s + std::string(12, '\xff'), "needs more bytes than 64 bits can count"},
  };
  for (const auto& [bytes, says] : cases) {
    const std::string error = error_of(bytes);
    EXPECT_NE(error.find(says), std::string::npos) << "expected: " << says << "\ngot: " << error;
  }
}

TEST(Idx, NamesTheFile) {
  const TempFolder folder;
  EXPECT_NE(message_of<Error>([&] { read_idx(folder / "absent"); }).find("absent: cannot open"), std::string::npos);
  EXPECT_THROW(read_idx(folder.path()), Error);
  write_file(folder / "good", small);
  EXPECT_EQ(read_idx(folder / "good").numel(), 6);
  write_file(folder / "bad", small + "g");
  EXPECT_NE(message_of<Error>([&] { read_idx(folder / "bad"); }).find("/bad: bytes follow"), std::string::npos);
}

TEST(Idx, ReadsNoPartOfAFile) {
  for (std::size_t n = 0; n < small.size(); ++n) EXPECT_NE(error_of(small.substr(0, n)), "") << n;
}

TEST(Idx, ReadsGzippedFilesWhateverTheirName) {
  if (!has_zlib()) GTEST_SKIP() << "this build has no zlib: gzipped files were not read";
  const TempFolder folder;
  write_file(folder / "plain.gz", small);
  write_file(folder / "gzipped", gzipped(small));
  EXPECT_EQ(read_idx(folder / "plain.gz").to_vector(), read_idx(folder / "gzipped").to_vector());
  // Two gzip files, one behind the other, are one.
  EXPECT_EQ(parse(gzipped(small.substr(0, 9)) + gzipped(small.substr(9))).to_vector(), parse(small).to_vector());
  // What gzip -9 makes of 300 zeros.
  const Tensor zeros = parse(
      "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x63\x60\xe0\x60\x64\x60\x60\xd4\x61\x18\x05\x44\x03\x00\x6f\x35\xf7\xa8\x34\x01\x00\x00"s);
  EXPECT_EQ(zeros.to_vector(), Values(300));
  const std::string large = "\0\0\x0d\1\0\3\x0d\x40"s + std::string(800000, '\x40');
  EXPECT_EQ(parse(gzipped(large)).to_vector(), parse(large).to_vector());
}

TEST(Idx, RefusesDamagedGzip) {
  if (!has_zlib()) GTEST_SKIP() << "this build has no zlib: gzipped files were not read";
  const std::string good = gzipped(small);
  for (std::size_t n = 0; n < good.size(); ++n) EXPECT_NE(error_of(good.substr(0, n)), "") << n;
  EXPECT_NE(error_of(good + "x"), "");
  EXPECT_NE(error_of(gzipped(small + "g")).find("bytes follow"), std::string::npos);
  EXPECT_NE(error_of(gzipped(small.substr(0, 17))).find("needs 6 bytes, got 5"), std::string::npos);
  EXPECT_NE(error_of(gzipped("\0\0\x08\1\xff\xff\xff\xff"s)).find("needs 4294967295 bytes, at most"),
            std::string::npos);
  std::string flipped = good;
  flipped[flipped.size() - 9] ^= 1;  // the last element: only the checksum tells
  EXPECT_NE(error_of(flipped).find("f: the gzip data is damaged: incorrect data check"), std::string::npos);
  flipped = good;
  flipped[2] = 7;
  EXPECT_NE(error_of(flipped).find("damaged"), std::string::npos);
}
