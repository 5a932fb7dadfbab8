// What a model is made of, and how large it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "anneal/nn/module.h"
#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// Parameters are numbers of elements. Shared ones count once in the totals, and in each layer that has them. FLOPs are
/// 2 for each multiply-add of matrix products, convolutions and attention.
struct Summary {
  struct Layer {
    std::string name, type;
    std::int64_t parameters;
    bool training;
    double flops = 0;                    ///< with those of the layers in it
    std::optional<Shape> input, output;  ///< of its first call; it may have none
  };
  std::vector<Layer> layers;          ///< in the order of declaration, each before those in it
  std::int64_t other_parameters = 0;  ///< outside of all layers
  std::int64_t trainable = 0, non_trainable = 0;
  double megabytes = 0;  ///< of parameters and buffers, 10^6 bytes each
  std::int64_t layers_in_train_mode = 0, layers_in_eval_mode = 0;
  std::optional<double> flops;  ///< of a forward; unset: it was not run, and no layer has FLOPs or sizes

  std::int64_t parameters() const { return trainable + non_trainable; }
  /// A table; `ruled`: with lines around its cells.
  std::string text(bool ruled = false) const;
};

/// Lists layers down to `max_depth` below the module, -1: all. Throws ConfigError for less than -1.
Summary summarize(const nn::Module& module, int max_depth = 1);
/// The same after a forward of `example`, which runs in eval mode, without gradients and with random numbers of its
/// own.
Summary summarize(nn::Module& module, const Tensor& example, int max_depth = 1);

/// "3", "1.2 K", "400 T".
std::string short_count(std::int64_t count);

struct ModelSummaryOptions {
  int max_depth = 1;  ///< 1: the module's own layers; -1: all; 0: nothing is printed
};

/// Prints the summary when a fit begins, not when it goes on: with sizes and FLOPs where the module has an
/// example_input.
class ModelSummary : public Callback {
 public:
  /// Throws ConfigError for an option that is not permitted.
  explicit ModelSummary(ModelSummaryOptions options = {});

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  bool rank_zero_only() const override { return true; }

 protected:
  virtual std::string text(const Summary& summary, Trainer& trainer) const;

 private:
  ModelSummaryOptions options_;
  bool resumed_ = false;
};

/// The same in ruled lines, where the terminal shows colours and UTF-8 (Console::is_rich).
class RichModelSummary final : public ModelSummary {
 public:
  using ModelSummary::ModelSummary;

 protected:
  std::string text(const Summary& summary, Trainer& trainer) const override;
};

}  // namespace v0
}  // namespace anneal
