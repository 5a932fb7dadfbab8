// Weights that are not needed are set to zero and stay there.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/core/named_tensor.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/pruning.h"

namespace anneal {
inline namespace v0 {

/// A value, or a function of the epoch.
template <class T>
using ByEpoch = std::variant<T, std::function<T(std::int64_t epoch)>>;

struct ModelPruningOptions {
  /// What goes first: l1_unstructured (the smallest), random_unstructured, ln_structured (slices along pruning_dim with
  /// the smallest norm), random_structured, or a function that says how important each element is.
  std::variant<std::string, PruningScore> fn = {};
  std::vector<std::string> parameters = {};  ///< those pruned, by full name. None: all that parameter_names names
  std::vector<std::string> parameter_names = {"weight", "bias"};
  bool use_global_unstructured = true;  ///< ranks all parameters together; false: the amount is of each
  ByEpoch<Amount> amount = 0.5;         ///< a share of what is left, or so many more elements (or slices)
  ByEpoch<bool> apply_pruning = true;
  bool make_pruning_permanent = true;  ///< false: another fit with this callback goes on with the zeros it has
  ByEpoch<bool> use_lottery_ticket_hypothesis = true;  ///< what is left goes back to its values before training
  bool resample_parameters = false;                    ///< it goes back to those in a random order
  std::optional<int> pruning_dim = {};                 ///< of structured pruning
  std::optional<double> pruning_norm = {};
  int verbose = 0;                       ///< 1: prints how much is zero; 2: of each parameter
  bool prune_on_train_epoch_end = true;  ///< false: at the end of each check
};

/// Prunes at the end of every epoch; what was dropped is set to zero again after every step. A checkpoint has the
/// weights with their zeros under the plain names, and what resuming needs in sections of its own. List it before
/// callbacks that average weights. Frankle & Carbin 2019 is the lottery ticket hypothesis.
class ModelPruning final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit ModelPruning(ModelPruningOptions options);

  /// The share of zeros in the parameters that are pruned; 0 before the first fit.
  double sparsity() const;

  bool changes_weights() const override { return true; }
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;

 private:
  struct Pruned {
    std::string name;
    Tensor parameter;
    Tensor mask = {};   // ones and zeros that broadcast to the parameter; undefined while nothing is dropped
    Tensor start = {};  // the parameter before training, if it may go back there
    double zeros() const;
  };
  std::vector<Pruned> find(TrainingModule& module) const;
  void take_in(const StateDict& masks, const StateDict& starts);
  void prune(Trainer& trainer);
  void rewind(Generator& generator) const;
  void apply_masks() const;

  ModelPruningOptions options_;
  PruningRule rule_;
  std::vector<Pruned> pruned_;
  StateDict resumed_masks_, resumed_starts_;  // for on_fit_start
  std::int64_t last_step_ = 0;
};

}  // namespace v0
}  // namespace anneal
