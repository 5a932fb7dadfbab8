#include "anneal/nn/sequential.h"

#include <typeinfo>

#include "anneal/nn/activation.h"
#include "anneal/nn/conv.h"
#include "anneal/nn/linear.h"

namespace anneal {
inline namespace v0 {
namespace nn {

namespace {

template <class L>
Tensor with_relu(const Module& layer, const Tensor& x) {
  return static_cast<const L&>(layer).forward(x, kernels::Activation::relu);
}

}  // namespace

// Of these types alone: one derived from them may do something else.
Sequential::Together Sequential::together(const Module& layer, const Module& next) {
  if (typeid(next) != typeid(ReLU)) return nullptr;
  return typeid(layer) == typeid(Linear)   ? &with_relu<Linear>
         : typeid(layer) == typeid(Conv2d) ? &with_relu<Conv2d>
                                           : nullptr;
}

void Sequential::append(Layer layer) {
  if (!layers_.empty()) layers_.back().with_next = together(*layers_.back().module, *layer.module);
  adopt(std::to_string(layers_.size()), *layer.module);
  layers_.push_back(std::move(layer));
}

Sequential::Sequential(const Sequential& other) : Module(other) {
  for (const Layer& layer : other.layers_) append({layer.copy(*layer.module), layer.copy});
}

Tensor Sequential::forward(const Tensor& x) const {
  const bool observed = ModuleObserver::active() != nullptr;  // each call by itself
  Tensor y = x;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (layer.with_next && !observed) {
      y = layer.with_next(*layer.module, y);
      ++i;
    } else {
      y = (*layer.module)(y);
    }
  }
  return y;
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
