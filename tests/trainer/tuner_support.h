// A model, and what is left of a run, for the tests of searches.
#pragma once

#include <concepts>
#include <limits>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/tuner.h"

namespace anneal_test {

using Values = std::vector<double>;
using Sizes = std::vector<std::int64_t>;
using Weights = std::vector<Values>;

inline Weights weights_of(const nn::Module& module) {
  Weights weights;
  for (const NamedTensor& entry : module.state_dict()) weights.push_back(entry.tensor.to_vector());
  return weights;
}

// All that has state: dropout, batch norm, moments, a schedule of the run's numbers, metrics, a count of its own.
struct Net : TrainingModule {
  nn::Sequential net{{this, "net"}, nn::Linear(3, 8), nn::BatchNorm1d(8),
                     nn::ReLU(),    nn::Dropout(0.3), nn::Linear(8, 1)};
  double learning_rate = 1e-2;
  int batch_size = 0;
  std::int64_t seen = 0, limit = std::numeric_limits<std::int64_t>::max();
  Sizes sizes;   // of training batches
  Values rates;  // of optimizer steps
  std::function<void(Net&)> in_training_step;

  void take(const Batch& batch) {
    sizes.push_back(batch.size());
    check<OutOfMemory>(batch.size() <= limit, "no memory for {}", batch.size());
  }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    ++seen;
    take(batch);
    if (in_training_step) in_training_step(*this);
    const Tensor loss = mse_loss(net(batch["x"]), batch["y"]);
    step.log("loss", loss, {.on_step = true, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    take(batch);
    step.log("val_loss", mse_loss(net(batch["x"]), batch["y"]));
  }
  void test_step(const Batch& batch, StepContext&) override { take(batch); }
  Batch predict_step(const Batch& batch, StepContext&) override {
    take(batch);
    return {{"y", net(batch["x"])}};
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = learning_rate}), optim::linear_lr(1, 0, optim::total_steps),
            Interval::step};
  }
  void on_before_optimizer_step(optim::Optimizer& optimizer) override { rates.push_back(optimizer.lr()); }
  void on_save_checkpoint(Checkpoint& checkpoint) override { checkpoint.user["seen"] = seen; }
  void on_load_checkpoint(Checkpoint& checkpoint) override {
    seen = std::get<std::int64_t>(checkpoint.user.at("seen"));
  }
};

inline Net fresh_net() {
  Generator generator(3);
  const GeneratorScope scope(generator);
  return Net();
}

inline DataLoader loader(std::int64_t samples = 24, std::int64_t batch_size = 4) {
  Generator generator(9);
  const Tensor x = randn({samples, 3}, {}, generator), y = randn({samples, 1}, {}, generator);
  return DataLoader(TensorDataset{{"x", x}, {"y", y}}, {.batch_size = batch_size, .shuffle = true, .seed = 4});
}

// A search in every second epoch.
template <class Finder>
struct EverySecondEpoch : Finder {
  using Finder::Finder;
  std::int64_t searches = 0;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override {
    if (trainer.current_epoch() % 2 == 1) return;
    ++searches;
    if constexpr (std::derived_from<Finder, LearningRateFinder>) this->lr_find(trainer, module);
    else this->scale_batch_size(trainer, module);
  }
};

struct Outcome {
  Weights weights;
  std::string rows;
  std::int64_t seen;
  bool operator==(const Outcome&) const = default;
};

inline Outcome outcome_of(std::vector<Shared<Callback>> callbacks, const DataLoader& data,
                          const std::string& precision = "32-true") {
  const TempFolder dir;
  Net net = fresh_net();
  Trainer trainer(quiet({.precision = precision,
                         .max_epochs = 4,
                         .log_every_n_steps = 1,
                         .accumulate_grad_batches = 2,
                         .logger = CsvLogger({.save_dir = dir.path()}),
                         .callbacks = std::move(callbacks)}));
  trainer.fit(net, data, loader(7));
  return {weights_of(net), read_text(trainer.log_dir() / "metrics.csv"), net.seen};
}

}  // namespace anneal_test
