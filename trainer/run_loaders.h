// The loaders of a run: asked for, shared among the ranks, limited. Not for users.
#pragma once

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// Those that were given for a run, as a DataModule; the module's own for those that were not.
class GivenLoaders final : public DataModule {
 public:
  GivenLoaders(TrainingModule& module, const DataLoader* train, const LoaderSet* others = nullptr)
      : module_(module), train_(train), others_(others) {}

  DataLoader train_dataloader() override { return train_ ? *train_ : module_.train_dataloader(); }
  LoaderSet val_dataloader() override { return others_ ? *others_ : module_.val_dataloader(); }
  LoaderSet test_dataloader() override { return others_ ? *others_ : module_.test_dataloader(); }
  LoaderSet predict_dataloader() override { return others_ ? *others_ : module_.predict_dataloader(); }
  bool allow_zero_length() const override { return module_.allow_zero_length(); }

 private:
  TrainingModule& module_;
  const DataLoader* train_;
  const LoaderSet* others_;
};

/// Sets `train`, `val` and how many batches of them are used. Throws ConfigError for limits that they cannot have.
void load_fit_loaders(TrainerState& state);
/// Asks anew where reload_dataloaders_every_n_epochs says so, as at the beginning of an epoch.
void reload_fit_loaders(TrainerState& state);
/// Takes this rank's share of another train loader in the place of the one there is.
void set_train_loader(TrainerState& state, DataLoader share);
/// Sets `own_run`, the loaders of an evaluation or a prediction; a validation's are `val`, too.
void load_evaluation_loaders(TrainerState& state);
/// The same with these.
void set_evaluation_loaders(TrainerState& state, const LoaderSet& set);

}  // namespace v0
}  // namespace anneal
