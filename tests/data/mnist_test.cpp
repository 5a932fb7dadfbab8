#include "anneal/data/mnist.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "anneal/core/error.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;
using anneal::testing::TempFolder;
using anneal::testing::write_file;
using namespace std::string_literals;

namespace {

std::string images(char n, char height = 28, char width = 28) {
  std::string bytes = "\0\0\x08\3\0\0\0"s + n + "\0\0\0"s + height + "\0\0\0"s + width;
  for (int i = 0; i < n * height * width; ++i) bytes += static_cast<char>(i % 251);
  return bytes;
}
std::string labels(const std::string& values) {
  return "\0\0\x08\1\0\0\0"s + static_cast<char>(values.size()) + values;
}

std::string error_of(const std::string& image_bytes, const std::string& label_bytes) {
  const TempFolder folder;
  write_file(folder / "train-images-idx3-ubyte", image_bytes);
  write_file(folder / "train-labels-idx1-ubyte", label_bytes);
  return message_of<Error>([&] { load_mnist(folder.path(), MnistSplit::train); });
}

}  // namespace

TEST(Mnist, ReadsBothSplits) {
  const TempFolder folder;
  write_file(folder / "train-images-idx3-ubyte", images(3));
  write_file(folder / "train-labels-idx1-ubyte", labels("\1\0\x09"s));
  write_file(folder / "t10k-images-idx3-ubyte.gz", images(1));
  write_file(folder / "t10k-labels-idx1-ubyte", labels("\7"));
  const LabelledImages train = load_mnist(folder.path(), MnistSplit::train);
  EXPECT_EQ(train.images.dtype(), DType::u8);
  EXPECT_EQ(train.images.shape(), (Shape{3, 28, 28}));
  EXPECT_EQ(train.images.span<std::uint8_t>()[783], 783 % 251);
  EXPECT_EQ(train.labels.dtype(), DType::i64);
  EXPECT_EQ(train.labels.to_vector(), (std::vector<double>{1, 0, 9}));
  EXPECT_EQ(load_mnist(folder.path(), MnistSplit::test).labels.to_vector(), (std::vector<double>{7}));
}

TEST(Mnist, SaysWhatIsMissing) {
  const TempFolder folder;
  const auto error = [&](MnistSplit split) { return message_of<Error>([&] { load_mnist(folder.path(), split); }); };
  EXPECT_NE(error(MnistSplit::train).find("no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz"),
            std::string::npos);
  EXPECT_NE(error(MnistSplit::test).find("no t10k-images-idx3-ubyte"), std::string::npos);
  write_file(folder / "train-images-idx3-ubyte", images(1));
  EXPECT_NE(error(MnistSplit::train).find("no train-labels-idx1-ubyte"), std::string::npos);
  EXPECT_NE(error(MnistSplit::train).find("apt install dataset-fashion-mnist"), std::string::npos);
}

TEST(Mnist, RefusesFilesThatDoNotFit) {
  EXPECT_EQ(error_of(images(2), labels("\1\2")), "");
  EXPECT_NE(error_of(images(2), labels("\1")).find("expected u8 [2], a label for each image, got u8 [1]"),
            std::string::npos);
  EXPECT_NE(error_of(images(2, 28, 27), labels("\1\2")).find("expected u8 [n, 28, 28], got u8 [2, 28, 27]"),
            std::string::npos);
  EXPECT_NE(error_of(labels("\1\2"), labels("\1\2")).find("expected u8 [n, 28, 28], got u8 [2]"), std::string::npos);
  EXPECT_NE(error_of(images(2), images(2)).find("a label for each image"), std::string::npos);
  EXPECT_NE(error_of(images(2), labels("\1\x0a")).find("expected labels from 0 to 9, got 10 at 1"), std::string::npos);
  EXPECT_NE(error_of(images(2).substr(0, 100), labels("\1\2")).find("truncated"), std::string::npos);
}

TEST(Mnist, ReadsFashionMnist) {
  if (!std::filesystem::exists(fashion_mnist_folder))
    GTEST_SKIP() << "no " << fashion_mnist_folder << ": it was not read";
  const auto test_split = [] { load_mnist(fashion_mnist_folder, MnistSplit::test); };
  if (message_of<Error>(test_split).find("without zlib") != std::string::npos)
    GTEST_SKIP() << "this build has no zlib: Fashion-MNIST was not read";
  for (const auto split : {MnistSplit::train, MnistSplit::test}) {
    const LabelledImages data = load_mnist(fashion_mnist_folder, split);
    const std::int64_t n = split == MnistSplit::train ? 60000 : 10000;
    EXPECT_EQ(data.images.shape(), (Shape{n, 28, 28}));
    for (std::int64_t label = 0; label < 10; ++label)
      EXPECT_EQ(std::ranges::count(data.labels.span<std::int64_t>(), label), n / 10);
  }
}
