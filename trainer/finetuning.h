// Training a part of a model first, and more of it later.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "anneal/nn/freezing.h"
#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// Base of callbacks that freeze parts of a model before training (nn::freeze) and unfreeze them in later epochs. The
/// module's configure_optimizers takes what is not frozen: `optim::SGD(nn::filter_params(*this))`. A checkpoint knows
/// what is frozen and which groups were added, by the names of their parameters.
class BaseFinetuning : public Callback {
 public:
  /// Called in setup, before the optimizers are made.
  virtual void freeze_before_training(TrainingModule& module) = 0;
  /// Called when an epoch starts, for each optimizer.
  virtual void finetune_function(TrainingModule& module, std::int64_t epoch, optim::Optimizer& optimizer) = 0;

  struct Unfreezing {
    std::optional<double> lr = {};  ///< the new group's. Unset: that of group 0, divided by initial_denom_lr
    double initial_denom_lr = 10;
    bool train_bn = true;  ///< false: batch norms stay as they are
  };
  /// Makes a part of the module trainable, and its parameters a new group of the optimizer with the numbers of group 0
  /// but for the rate, which no schedule moves. Those that the optimizer has already stay in their group, with a
  /// warning. Returns whether there is a new group.
  static bool unfreeze_and_add_param_group(TrainingModule& module, nn::Module& part, optim::Optimizer& optimizer,
                                           const Unfreezing& how);

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  std::string state_key() const override { return "BaseFinetuning"; }
  void load_state(const StateMap& state) override { resumed_ = state; }

 private:
  void restore(TrainingModule& module, const std::vector<optim::Optimizer*>& optimizers) const;

  std::vector<std::size_t> own_groups_;  // of each optimizer, as configure_optimizers made it
  std::optional<StateMap> resumed_;      // for on_fit_start
};

struct BackboneFinetuningOptions {
  std::int64_t unfreeze_backbone_at_epoch = 10;  ///< counted from 0
  /// What the backbone's rate is multiplied by when a later epoch starts, given its number, from 1.
  std::function<double(std::int64_t)> lambda = [](std::int64_t) { return 2.0; };
  double backbone_initial_ratio_lr = 0.1;          ///< the backbone's first rate, as a share of group 0's
  std::optional<double> backbone_initial_lr = {};  ///< or the rate itself
  bool should_align = true;                        ///< the backbone's rate is never above group 0's
  bool train_bn = true;                            ///< the backbone's batch norms train from the start; false: never
  bool verbose = false;                            ///< prints the rates of each epoch
  int rounding = 12;                               ///< to so many digits
};

/// Trains all but the module's child `backbone` first. At an epoch the backbone joins in at a small rate, which then
/// grows.
class BackboneFinetuning final : public BaseFinetuning {
 public:
  /// Throws ConfigError for options out of range.
  explicit BackboneFinetuning(BackboneFinetuningOptions options = {});

  /// Throws ConfigError for a module that has no `backbone`.
  void freeze_before_training(TrainingModule& module) override;
  void finetune_function(TrainingModule& module, std::int64_t epoch, optim::Optimizer& optimizer) override;
  std::string state_key() const override { return "BackboneFinetuning"; }

 private:
  BackboneFinetuningOptions options_;
};

}  // namespace v0
}  // namespace anneal
