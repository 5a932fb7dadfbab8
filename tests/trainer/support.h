// Small models, loaders and folders for the tests of the Trainer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/adam.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/temp_folder.h"
#include "anneal/trainer/trainer.h"

namespace anneal_test {

using namespace anneal;
namespace fs = std::filesystem;

using anneal::testing::message_of;
using anneal::testing::read_text;
using anneal::testing::TempFolder;

/// Names of the files in a folder, sorted, without extension.
inline std::vector<std::string> stems(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(folder, missing)) names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// Samples 0, 1, ...: "x" [n, 1] holds the number.
inline DataLoader counting_loader(std::int64_t batches, std::int64_t batch_size = 1) {
  const Tensor x = arange(batches * batch_size).to(DType::f32).reshape({batches * batch_size, 1});
  return DataLoader(TensorDataset{{"x", x}}, {.batch_size = batch_size});
}

/// One weight; the loss is weight * mean(x + 1), so the gradient is known. Functions may be put into its steps.
struct Probe : TrainingModule {
  nn::Parameter weight{{this, "weight"}, zeros({1})};
  std::function<void(const Batch&, StepContext&)> in_training_step, in_validation_step, in_test_step;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    if (in_training_step) in_training_step(batch, step);
    return sum(weight) * mean(batch["x"] + 1.0);
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    if (in_validation_step) in_validation_step(batch, step);
  }
  void test_step(const Batch& batch, StepContext& step) override {
    if (in_test_step) in_test_step(batch, step);
  }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};

/// No files, no text.
inline TrainerOptions quiet(TrainerOptions options = {}) {
  options.logger = options.logger.loggers().empty() ? LoggerOption(false) : options.logger;
  options.enable_checkpointing = false;
  options.enable_progress_bar = false;
  options.enable_model_summary = false;
  options.sink = [](std::string_view) {};
  if (!options.seed) options.seed = 1;
  return options;
}

/// What a run did: numbers from hooks.
struct Watch : Callback {
  std::vector<std::int64_t> checks;  // total batches when one began
  std::int64_t batches = 0, epoch_ends = 0, train_starts = 0, val_batches = 0, sanity_batches = 0, test_batches = 0;

  void on_train_start(Trainer&, TrainingModule&) override { ++train_starts; }
  void on_train_batch_end(Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext&) override { ++batches; }
  void on_train_epoch_end(Trainer&, TrainingModule&) override { ++epoch_ends; }
  void on_validation_start(Trainer& trainer, TrainingModule&) override {
    if (trainer.stage() == Stage::fit) checks.push_back(batches);
  }
  void on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) override {
    ++(trainer.stage() == Stage::sanity_check ? sanity_batches : val_batches);
  }
  void on_test_batch_end(Trainer&, TrainingModule&, const Batch&, StepContext&) override { ++test_batches; }
};

/// A function at the end of each training batch.
struct AtBatchEnd : Callback {
  explicit AtBatchEnd(std::function<void(Trainer&, std::int64_t)> f) : f(std::move(f)) {}
  void on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext& step) override {
    f(trainer, step.batch_idx());
  }
  std::function<void(Trainer&, std::int64_t)> f;
};

}  // namespace anneal_test
