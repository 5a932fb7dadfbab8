// How callbacks, loggers and optimizers are given to a Trainer.
#pragma once

#include <concepts>
#include <memory>
#include <utility>

namespace anneal {
inline namespace v0 {

/// An object of a type derived from Base, given by value (moved in) or by shared pointer (then the giver can read it
/// afterwards):
///
///   auto best = std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.monitor = "val_loss"});
///   Trainer trainer({.callbacks = {best, CurvePlot()}});
template <class Base>
class Shared : public std::shared_ptr<Base> {
 public:
  Shared() = default;
  template <std::derived_from<Base> D>
  Shared(D object) : std::shared_ptr<Base>(std::make_shared<D>(std::move(object))) {}
  template <std::derived_from<Base> D>
  Shared(std::shared_ptr<D> object) : std::shared_ptr<Base>(std::move(object)) {}
};

}  // namespace v0
}  // namespace anneal
