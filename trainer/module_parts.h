// What the type of a module tells. Private.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <typeinfo>

#include "anneal/trainer/data_module.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

/// A variable of some floating-point type, or of some integer type, as Like is.
template <class T, class Like>
concept Settable =
    std::is_arithmetic_v<T> && !std::is_const_v<T> && std::floating_point<T> == std::floating_point<Like>;

struct ModuleParts {
  bool tells = false;  ///< the type tells which of these there are
  /// False: the type says that it overrides no such part. True where it does not tell.
  bool training_step = true, validation_step = true, test_step = true, predict_step = true, configure_optimizers = true;
  bool moves_batches_twice = false;  ///< the module and the DataModule both say how batches come to the device
  /// Set the public members `learning_rate` or `lr`, a floating-point number, and `batch_size`, an integer. Empty:
  /// there are none.
  std::function<void(double)> set_learning_rate = {};
  std::function<void(std::int64_t)> set_batch_size = {};
};

/// Whether M overrides one of Base's hooks around a batch's way to the device.
template <class M, class Base>
constexpr bool moves_batches() {
  bool moves = false;
  if constexpr (requires { &M::on_before_batch_transfer; })
    moves |= !std::is_same_v<decltype(&M::on_before_batch_transfer), decltype(&Base::on_before_batch_transfer)>;
  if constexpr (requires { &M::transfer_batch_to_device; })
    moves |= !std::is_same_v<decltype(&M::transfer_batch_to_device), decltype(&Base::transfer_batch_to_device)>;
  if constexpr (requires { &M::on_after_batch_transfer; })
    moves |= !std::is_same_v<decltype(&M::on_after_batch_transfer), decltype(&Base::on_after_batch_transfer)>;
  return moves;
}

template <class M>
ModuleParts parts_of(M& module) {
  using Base = TrainingModule;
  ModuleParts parts;
  if constexpr (requires { requires Settable<decltype(M::learning_rate), double>; })
    parts.set_learning_rate = [&](double x) { module.learning_rate = static_cast<decltype(M::learning_rate)>(x); };
  else if constexpr (requires { requires Settable<decltype(M::lr), double>; })
    parts.set_learning_rate = [&](double x) { module.lr = static_cast<decltype(M::lr)>(x); };
  if constexpr (requires { requires Settable<decltype(M::batch_size), std::int64_t>; })
    parts.set_batch_size = [&](std::int64_t n) { module.batch_size = static_cast<decltype(M::batch_size)>(n); };
  if (typeid(module) != typeid(M)) return parts;  // a type derived from M may override what M does not
  parts.tells = true;
  // A member that is private or overloaded cannot be asked for here; it is an override then.
  if constexpr (requires { &M::training_step; })
    parts.training_step = !std::is_same_v<decltype(&M::training_step), decltype(&Base::training_step)>;
  if constexpr (requires { &M::validation_step; })
    parts.validation_step = !std::is_same_v<decltype(&M::validation_step), decltype(&Base::validation_step)>;
  if constexpr (requires { &M::test_step; })
    parts.test_step = !std::is_same_v<decltype(&M::test_step), decltype(&Base::test_step)>;
  if constexpr (requires { &M::predict_step; })
    parts.predict_step = !std::is_same_v<decltype(&M::predict_step), decltype(&Base::predict_step)>;
  if constexpr (requires { &M::forward; })  // which predict_step calls by default
    parts.predict_step |= !std::is_same_v<decltype(&M::forward), decltype(&nn::Module::forward)>;
  else parts.predict_step = true;
  if constexpr (requires { &M::configure_optimizers; })
    parts.configure_optimizers =
        !std::is_same_v<decltype(&M::configure_optimizers), decltype(&Base::configure_optimizers)>;
  return parts;
}

template <class M, class D>
ModuleParts parts_of(M& module, const D&) {
  ModuleParts parts = parts_of(module);
  parts.moves_batches_twice = moves_batches<M, TrainingModule>() && moves_batches<D, DataModule>();
  return parts;
}

}  // namespace v0
}  // namespace anneal
