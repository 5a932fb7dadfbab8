// Modules as a checkpoint's run had them.
#pragma once

#include <concepts>
#include <filesystem>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/data_module.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

/// What load_from_checkpoint does with a new module: configure_model, on_load_checkpoint, the weights.
void load_module(TrainingModule& module, Checkpoint& checkpoint);

/// A module made of the hyper-parameters of its run, with `overrides`, and with the weights; or a DataModule with its
/// state. M has a constructor that takes HParams, and an hparams() that gives what that needs. Throws Error for a file
/// that is not a checkpoint or does not fit.
///
///   auto model = load_from_checkpoint<Classifier>("best.ckpt", {{"dropout", 0.0}});
template <class M>
requires std::constructible_from<M, const HParams&> &&
    (std::derived_from<M, TrainingModule> || std::derived_from<M, DataModule>)M
    load_from_checkpoint(const std::filesystem::path& path, const HParams& overrides = {}) {
  Checkpoint checkpoint = load_checkpoint(path);
  constexpr bool is_model = std::derived_from<M, TrainingModule>;
  HParams& hparams = is_model ? checkpoint.hparams : checkpoint.data_hparams;
  merge(hparams, overrides);
  M module(static_cast<const HParams&>(hparams));
  if constexpr (is_model) load_module(module, checkpoint);
  else module.load_state(checkpoint.data);
  return module;
}

}  // namespace v0
}  // namespace anneal
