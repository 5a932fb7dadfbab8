#include "anneal/data/dataset.h"

#include <algorithm>
#include <cstring>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

// Copies `row(i)`, which point to `shape.numel()` elements each, below one another.
template <class Row>
Tensor stack_rows(std::int64_t count, const Shape& shape, DType dtype, const Row& row) {
  const Tensor out = empty(shape.with(0, count), {.dtype = dtype});
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  if (bytes == 0) return out;
  auto* to = static_cast<std::byte*>(out.raw());
  for (std::int64_t i = 0; i < count; ++i, to += bytes) std::memcpy(to, row(i), bytes);
  return out;
}

void check_index(std::int64_t index, std::int64_t size) {
  check(index >= 0 && index < size, "dataset: no sample {}; it has {} of them", index, size);
}

}  // namespace

TensorDataset::TensorDataset(std::vector<NamedTensor> tensors) : tensors_(std::move(tensors)) {
  const NoGrad no_grad;
  check(!tensors_.empty(), "TensorDataset: expected at least one tensor");
  for (auto& [name, tensor] : tensors_) {
    check(tensor.rank() > 0, "TensorDataset: \"{}\" is a scalar; its first dimension must be the samples'", name);
    check(tensor.size(0) == tensors_[0].tensor.size(0), "TensorDataset: \"{}\" has {} samples, but \"{}\" has {}", name,
          tensor.size(0), tensors_[0].name, tensors_[0].tensor.size(0));
    tensor = tensor.detach().to(Device{}).contiguous();
  }
  size_ = tensors_[0].tensor.size(0);
}

Batch TensorDataset::get(std::span<const std::int64_t> indices) const {
  for (const std::int64_t i : indices) check_index(i, size_);
  std::vector<NamedTensor> out;
  out.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) {
    const Shape row = tensor.shape().without(0);
    const auto* first = static_cast<const std::byte*>(tensor.raw());
    const std::int64_t bytes = row.numel() * static_cast<std::int64_t>(size_of(tensor.dtype()));
    out.push_back(
        {name, stack_rows(static_cast<std::int64_t>(indices.size()), row, tensor.dtype(),
                          [&](std::int64_t i) { return first + indices[static_cast<std::size_t>(i)] * bytes; })});
  }
  return Batch(std::move(out));
}

Subset::Subset(std::shared_ptr<const Dataset> whole, std::vector<std::int64_t> indices)
    : whole_(std::move(whole)), indices_(std::move(indices)) {
  for (const std::int64_t i : indices_) check_index(i, whole_->size());
}

Batch Subset::get(std::span<const std::int64_t> indices) const {
  std::vector<std::int64_t> mapped;
  mapped.reserve(indices.size());
  for (const std::int64_t i : indices) {
    check_index(i, size());
    mapped.push_back(indices_[static_cast<std::size_t>(i)]);
  }
  return whole_->get(mapped);
}

Batch collate(std::span<const Batch> samples) {
  if (samples.empty()) return {};
  const NoGrad no_grad;
  std::vector<NamedTensor> out;
  for (const Batch& sample : samples)
    check(sample.names() == samples[0].names(), "collate: the samples have tensors of different names");
  for (const auto& [name, first] : samples[0]) {
    std::vector<Tensor> rows;
    rows.reserve(samples.size());
    for (const Batch& sample : samples) {
      rows.push_back(sample[name].to(Device{}).contiguous());
      check(rows.back().shape() == first.shape() && rows.back().dtype() == first.dtype(),
            "collate: \"{}\" is {} {} in one sample and {} {} in another", name, name_of(first.dtype()), first.shape(),
            name_of(rows.back().dtype()), rows.back().shape());
    }
    out.push_back({name, stack_rows(static_cast<std::int64_t>(rows.size()), first.shape(), first.dtype(),
                                    [&](std::int64_t i) { return rows[static_cast<std::size_t>(i)].raw(); })});
  }
  return Batch(std::move(out));
}

}  // namespace v0
}  // namespace anneal
