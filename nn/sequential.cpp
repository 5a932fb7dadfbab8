#include "anneal/nn/sequential.h"

namespace anneal {
inline namespace v0 {
namespace nn {

void Sequential::append(Layer layer) {
  adopt(std::to_string(layers_.size()), *layer.module);
  layers_.push_back(std::move(layer));
}

Sequential::Sequential(const Sequential& other) : Module(other) {
  for (const Layer& layer : other.layers_) append({layer.copy(*layer.module), layer.copy});
}

Tensor Sequential::forward(const Tensor& x) const {
  Tensor y = x;
  for (const Layer& layer : layers_) y = (*layer.module)(y);
  return y;
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
