// Modules in a row.
#pragma once

#include <concepts>
#include <memory>
#include <utility>
#include <vector>

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

/// Calls its modules one after the other. They are given by value and named "0", "1", ...:
/// `nn::Sequential net{{this, "net"}, nn::Linear(784, 512), nn::ReLU(), nn::Linear(512, 10)};`
/// A ReLU after a Linear or Conv2d is taken in the same pass, unless a ModuleObserver listens.
class Sequential : public Module {
 public:
  template <std::derived_from<Module>... Layers>
  explicit Sequential(Slot at, Layers... layers) : Module(at) {
    (add(std::move(layers)), ...);
  }
  template <std::derived_from<Module>... Layers>
  requires(sizeof...(Layers) > 0 &&
           !(sizeof...(Layers) == 1 && (std::same_as<Layers, Sequential> && ...))) explicit Sequential(Layers... layers)
      : Sequential(Slot{}, std::move(layers)...) {}
  /// Only for clone, as all modules.
  Sequential(const Sequential& other);
  Sequential(Sequential&&) noexcept = default;
  Sequential& operator=(Sequential&&) noexcept = default;

  /// Adds a module at the end.
  template <std::derived_from<Module> M>
  Sequential& add(M layer) {
    append({std::make_unique<M>(std::move(layer)), &copy_of<M>});
    return *this;
  }
  std::size_t size() const { return layers_.size(); }
  Module& operator[](std::size_t i) const { return *layers_.at(i).module; }

  Tensor forward(const Tensor& x) const override;

 private:
  // A copy needs to know the type, which only `add` saw.
  using Copy = std::unique_ptr<Module> (*)(const Module&);
  // What a module and the next one come to.
  using Together = Tensor (*)(const Module&, const Tensor& x);
  struct Layer {
    std::unique_ptr<Module> module;
    Copy copy;
    Together with_next = nullptr;  // null: each by itself
  };
  template <class M>
  static std::unique_ptr<Module> copy_of(const Module& module) {
    return std::make_unique<M>(static_cast<const M&>(module));
  }
  static Together together(const Module& layer, const Module& next);
  void append(Layer layer);

  std::vector<Layer> layers_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
