// MNIST and the data sets that come in its form, such as Fashion-MNIST.
#pragma once

#include <filesystem>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

struct LabelledImages {
  Tensor images;  ///< u8 [n, 28, 28]
  Tensor labels;  ///< i64 [n], from 0 to 9
};
enum class MnistSplit { train, test };

/// Where Debian's package dataset-fashion-mnist puts its files.
inline constexpr const char* fashion_mnist_folder = "/usr/share/datasets/fashion-mnist";

/// Reads train-images-idx3-ubyte and train-labels-idx1-ubyte (test: t10k-), each plain or with .gz behind its name.
/// Throws Error for a file that is missing, damaged, or does not fit the other one.
LabelledImages load_mnist(const std::filesystem::path& folder, MnistSplit split);

}  // namespace v0
}  // namespace anneal
