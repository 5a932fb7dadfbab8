#include "anneal/data/batch.h"

#include <algorithm>
#include <utility>

namespace anneal {
inline namespace v0 {

Batch::Batch(std::vector<NamedTensor> tensors) : tensors_(std::move(tensors)) {
  for (auto it = tensors_.begin(); it != tensors_.end(); ++it)
    check(std::ranges::find(tensors_.begin(), it, it->name, &NamedTensor::name) == it,
          "batch: the name \"{}\" comes twice", it->name);
}

const Tensor& Batch::operator[](std::string_view name) const {
  const auto it = std::ranges::find(tensors_, name, &NamedTensor::name);
  if (it != tensors_.end()) return it->tensor;
  std::string known;
  for (const auto& entry : tensors_) known += format("{}\"{}\"", known.empty() ? "" : ", ", entry.name);
  throw Error(format("batch: no tensor \"{}\"; it has {}", name, known.empty() ? "none" : known));
}

const Tensor& Batch::operator[](int index) const {
  check(index >= 0 && index < static_cast<int>(tensors_.size()), "batch: no tensor {}; it has {} of them", index,
        tensors_.size());
  return tensors_[static_cast<std::size_t>(index)].tensor;
}

bool Batch::contains(std::string_view name) const {
  return std::ranges::find(tensors_, name, &NamedTensor::name) != tensors_.end();
}

Batch Batch::part(std::string_view name) const {
  Batch part;
  for (const auto& entry : tensors_)
    if (entry.name.starts_with(name) && entry.name.substr(name.size()).starts_with('.'))
      part.tensors_.push_back({entry.name.substr(name.size() + 1), entry.tensor});
  return part;
}

void Batch::set(std::string_view name, Tensor tensor) {
  const auto it = std::ranges::find(tensors_, name, &NamedTensor::name);
  if (it != tensors_.end()) it->tensor = std::move(tensor);
  else tensors_.push_back({std::string(name), std::move(tensor)});
}

std::vector<std::string> Batch::names() const {
  std::vector<std::string> out;
  for (const auto& entry : tensors_) out.push_back(entry.name);
  return out;
}

Batch Batch::to(Device device) const {
  Batch out = *this;
  for (auto& entry : out.tensors_) entry.tensor = entry.tensor.to(device);
  return out;
}

}  // namespace v0
}  // namespace anneal
