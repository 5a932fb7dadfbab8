// The Trainer on a GPU (or the emulation of one) does what it does on the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "anneal/anneal.h"

namespace anneal {
namespace {

struct Classifier : TrainingModule {
  nn::Sequential net{
      {this, "net"}, nn::Linear(6, 16, {.bias = false}), nn::BatchNorm1d(16), nn::ReLU(), nn::Linear(16, 3)};
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = cross_entropy(net(batch["x"]), batch["y"]);
    step.log("loss", loss, {.on_step = false, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    step.log("val_loss", cross_entropy(net(batch["x"]), batch["y"]));
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = 0.02}), optim::cosine_annealing_lr(4)};
  }
};

DataLoader points(std::int64_t n) {
  Generator generator(3);
  const GeneratorScope scope(generator);
  const Tensor x = randn({n, 6});
  return DataLoader(TensorDataset{{"x", x}, {"y", argmax(x.slice(1, 0, 3), 1)}}, {.batch_size = 8, .shuffle = true});
}

struct Outcome {
  std::vector<double> weights;
  double loss, val_loss;
  std::int64_t skipped_steps;
};

Outcome train(const char* accelerator, const char* precision, std::int64_t epochs,
              const std::filesystem::path& folder = {}, const std::string& resume = {}) {
  std::vector<Shared<Callback>> callbacks;
  if (!folder.empty()) callbacks = {ModelCheckpoint({.dirpath = folder, .save_last = true})};
  Trainer trainer({.accelerator = accelerator,
                   .precision = precision,
                   .max_epochs = epochs,
                   .accumulate_grad_batches = 2,
                   .gradient_clip_val = 0.5,
                   .logger = false,
                   .callbacks = callbacks,
                   .enable_checkpointing = !folder.empty(),
                   .enable_progress_bar = false,
                   .seed = 1,
                   .sink = [](std::string_view) {}});
  manual_seed(2);
  Classifier model;
  trainer.fit(model, points(44), points(20), {.resume = resume});
  Outcome run{{}, trainer.callback_metrics()["loss"], trainer.callback_metrics()["val_loss"], trainer.skipped_steps()};
  for (const NamedTensor& entry : model.state_dict())
    for (const double value : entry.tensor.to_vector()) run.weights.push_back(value);
  return run;
}

class TrainerOnGpu : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (device_count(DeviceKind::cuda) == 0) GTEST_SKIP() << "NOT TESTED: there is no GPU";
  }
};

TEST_P(TrainerOnGpu, GivesTheCpusWeights) {
  const Outcome cpu = train("cpu", GetParam(), 4), gpu = train("cuda", GetParam(), 4);
  const double tolerance = std::string_view(GetParam()) == "32-true" ? 1e-4 : 0.02;
  ASSERT_EQ(gpu.weights.size(), cpu.weights.size());
  for (std::size_t i = 0; i < cpu.weights.size(); ++i)
    ASSERT_NEAR(gpu.weights[i], cpu.weights[i], tolerance * (1 + std::abs(cpu.weights[i]))) << i;
  EXPECT_NEAR(gpu.loss, cpu.loss, tolerance);
  EXPECT_NEAR(gpu.val_loss, cpu.val_loss, tolerance);
  EXPECT_EQ(gpu.skipped_steps, cpu.skipped_steps);
}

TEST_P(TrainerOnGpu, ResumesToTheBit) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / format("anneal_gpu_trainer_{}", std::random_device()());
  const Outcome whole = train("cuda", GetParam(), 4);
  train("cuda", GetParam(), 2, folder);
  EXPECT_EQ(train("cuda", GetParam(), 4, folder, "last").weights, whole.weights);
  std::filesystem::remove_all(folder);
}
// Row C-135: what is logged comes late, but whole and in order, and no step waits for it.
TEST(LoggingOnGpu, WaitsInNoStep) {
  if (device_count(DeviceKind::cuda) == 0) GTEST_SKIP() << "NOT TESTED: there is no GPU";
  struct Rows : Logger {
    std::vector<std::string> rows;
    void log_metrics(const MetricMap& row, std::int64_t x) override {
      rows.push_back(std::to_string(x));
      for (const auto& [name, value] : row) rows.back() += format(" {}={}", name, value);
    }
    std::filesystem::path log_dir() const override { return "."; }
  };
  struct Logging : Classifier {
    bool waits = false;
    Tensor training_step(const Batch& batch, StepContext& step) override {
      const Tensor loss = cross_entropy(net(batch["x"]), batch["y"]);
      const LogOptions options{.prog_bar = true, .on_step = true, .on_epoch = true};
      if (waits) step.log("loss", loss.item(), options);
      else step.log("loss", loss, options);
      step.log("batch", static_cast<double>(step.batch_idx()));
      return loss;
    }
  };
  const auto rows_of = [](bool waits, std::int64_t* waited) {
    const auto logger = std::make_shared<Rows>();
    std::int64_t first = -1;
    const LambdaCallback count(
        {.on_train_batch_end = [&](Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext& step) {
          if (step.batch_idx() == 0) first = device_waits();
          *waited = device_waits() - first;
        }});
    Trainer trainer({.accelerator = "cuda",
                     .max_epochs = 1,
                     .log_every_n_steps = 10,
                     .accumulate_grad_batches = 2,
                     .gradient_clip_val = 0.5,
                     .log_grad_norm = true,
                     .logger = logger,
                     .callbacks = {count, ProgressBar({.refresh_rate = 1})},
                     .enable_checkpointing = false,
                     .enable_model_summary = false,
                     .seed = 1,
                     .sink = [](std::string_view) {}});
    manual_seed(2);
    Logging model;
    model.waits = waits;
    trainer.fit(model, points(800));
    EXPECT_EQ(trainer.global_step(), 50);
    return logger->rows;
  };
  std::int64_t own = 0, none = -1;
  const std::vector<std::string> expected = rows_of(true, &own), rows = rows_of(false, &none);
  EXPECT_EQ(rows, expected);
  EXPECT_EQ(rows.size(), 6U);
  EXPECT_EQ(none, 0);
  EXPECT_GE(own, 99);
}

TEST(AveragesOnGpu, MayBeKeptOnTheCpu) {
  if (device_count(DeviceKind::cuda) == 0) GTEST_SKIP() << "NOT TESTED: there is no GPU";
  const auto weights_with = [](std::optional<Device> device) {
    Trainer trainer({.accelerator = "cuda",
                     .max_epochs = 2,
                     .logger = false,
                     .callbacks = {EMAWeightAveraging({.decay = 0.5, .device = device})},
                     .enable_checkpointing = false,
                     .enable_progress_bar = false,
                     .seed = 1,
                     .sink = [](std::string_view) {}});
    manual_seed(2);
    Classifier model;
    trainer.fit(model, points(44), points(20));
    EXPECT_EQ(model.parameters()[0].tensor.device(), Device{DeviceKind::cuda});
    std::vector<double> values = {trainer.callback_metrics()["val_loss"]};
    for (const NamedTensor& entry : model.state_dict())
      for (const double value : entry.tensor.to_vector()) values.push_back(value);
    return values;
  };
  const std::vector<double> beside = weights_with({}), apart = weights_with(Device{});
  ASSERT_EQ(beside.size(), apart.size());
  for (std::size_t i = 0; i < beside.size(); ++i) EXPECT_NEAR(beside[i], apart[i], 1e-6) << i;

  // The averages themselves, of an arena's parameters and of another tensor.
  const Device gpu{DeviceKind::cuda};
  const Tensor p = full({3}, 1, {.device = gpu, .requires_grad = true}), other = full({2}, 1, {.device = gpu});
  optim::SGD sgd({{"p", p}}, {});
  optim::AveragedWeights averages({{"p", p}, {"other", other}}, optim::swa_avg(), &sgd, Device{});
  for (const double value : {1.0, 3.0}) {
    p.detach().fill_(value);
    other.fill_(value);
    averages.update();
  }
  for (const auto& [name, average] : averages.averages()) {
    EXPECT_EQ(average.device(), Device{}) << name;
    EXPECT_EQ(average.to_vector()[0], 2) << name;
  }
  averages.swap();
  EXPECT_EQ(p.to_vector(), (std::vector<double>{2, 2, 2}));
  averages.swap();
  EXPECT_EQ(p.to_vector(), (std::vector<double>{3, 3, 3}));
}

INSTANTIATE_TEST_SUITE_P(Precisions, TrainerOnGpu, ::testing::Values("32-true", "bf16-mixed", "16-mixed"));

}  // namespace
}  // namespace anneal
