#include "anneal/data/mnist.h"

#include <algorithm>
#include <string>

#include "anneal/data/idx.h"

namespace anneal {
inline namespace v0 {
namespace {

std::filesystem::path find_file(const std::filesystem::path& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz"}) {
    auto path = folder / (name + suffix);
    if (std::filesystem::exists(path)) return path;
  }
  throw Error(
      format("{}: no {} and no {}.gz there; name the folder that has it (--data DIR), or get Fashion-MNIST with "
             "`apt install dataset-fashion-mnist`",
             folder.string(), name, name));
}

}  // namespace

LabelledImages load_mnist(const std::filesystem::path& folder, MnistSplit split) {
  const std::string prefix = split == MnistSplit::train ? "train" : "t10k";
  const auto images_path = find_file(folder, prefix + "-images-idx3-ubyte");
  const auto labels_path = find_file(folder, prefix + "-labels-idx1-ubyte");
  const Tensor images = read_idx(images_path);
  const Tensor labels = read_idx(labels_path);
  check(images.dtype() == DType::u8 && images.rank() == 3 && images.size(1) == 28 && images.size(2) == 28,
        "{}: expected u8 [n, 28, 28], got {} {}", images_path.string(), name_of(images.dtype()), images.shape());
  check(labels.dtype() == DType::u8 && labels.shape() == Shape{images.size(0)},
        "{}: expected u8 [{}], a label for each image, got {} {}", labels_path.string(), images.size(0),
        name_of(labels.dtype()), labels.shape());
  const auto values = labels.span<std::uint8_t>();
  const auto bad = std::ranges::find_if(values, [](std::uint8_t label) { return label > 9; });
  check(bad == values.end(), "{}: expected labels from 0 to 9, got {} at {}", labels_path.string(),
        bad == values.end() ? 0 : int{*bad}, bad - values.begin());
  Tensor wide = empty(labels.shape(), {.dtype = DType::i64});
  std::ranges::copy(values, wide.data<std::int64_t>());
  return {images, wide};
}

}  // namespace v0
}  // namespace anneal
