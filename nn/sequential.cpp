#include "anneal/nn/sequential.h"

namespace anneal {
inline namespace v0 {
namespace nn {

Module& Sequential::append(std::unique_ptr<Module> module, Copy copy) {
  layers_.push_back({std::move(module), copy});
  return *layers_.back().module;
}

Sequential::Sequential(const Sequential& other) : Module(other) {
  for (const Layer& layer : other.layers_)
    adopt(std::to_string(layers_.size()), append(layer.copy(*layer.module), layer.copy));
}

Tensor Sequential::forward(const Tensor& x) const {
  Tensor y = x;
  for (const Layer& layer : layers_) y = layer.module->forward(y);
  return y;
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
