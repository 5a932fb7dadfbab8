// Hooks on gradients: kept by the graph, called by the engine.
#pragma once

#include <type_traits>
#include <utility>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// A function on a gradient, held by the tensor's place in the graph.
class Hook : public RefCounted {
 public:
  /// Returns the gradient to go on with, or an undefined tensor for the same.
  virtual Tensor call(const Tensor& gradient) = 0;
};

template <class F>
void Tensor::register_hook(F hook) const {
  struct Of final : Hook {
    explicit Of(F f) : f(std::move(f)) {}
    Tensor call(const Tensor& gradient) override {
      if constexpr (std::is_void_v<std::invoke_result_t<F&, const Tensor&>>) {
        f(gradient);
        return {};
      } else {
        return f(gradient);
      }
    }
    F f;
  };
  add_hook(make_ref<Of>(std::move(hook)));
}

}  // namespace v0
}  // namespace anneal
