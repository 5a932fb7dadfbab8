// Where metrics may be logged, and what is kept of them there by default.
#include <gtest/gtest.h>

#include "anneal/tests/expect.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using anneal::testing::expect_contains;
using Texts = std::vector<std::string>;

// Logs in one hook, by its name.
struct Everywhere : Probe {
  std::string where;
  LogOptions options;
  void at(const char* hook) {
    if (where != hook) return;
    MetricMap k;
    k.set("k", 5);
    log_dict(k, options);
  }
  void prepare_data() override { at("prepare_data"); }
  void setup(Stage) override { at("setup"); }
  void teardown(Stage) override { at("teardown"); }
  void configure_model() override { at("configure_model"); }
  std::vector<Shared<Callback>> configure_callbacks() override {
    at("configure_callbacks");
    return {};
  }
  OptimizerConfig configure_optimizers() override {
    at("configure_optimizers");
    return {optim::SGD(parameters(), {.lr = 0.1}), optim::exponential_lr(0.5), Interval::step};
  }
  void on_fit_start() override { at("on_fit_start"); }
  void on_fit_end() override { at("on_fit_end"); }
  void on_train_start() override { at("on_train_start"); }
  void on_train_end() override { at("on_train_end"); }
  void on_train_epoch_start() override { at("on_train_epoch_start"); }
  void on_train_epoch_end() override { at("on_train_epoch_end"); }
  void on_before_batch_transfer(Batch&) override { at("on_before_batch_transfer"); }
  void transfer_batch_to_device(Batch&, Device) override { at("transfer_batch_to_device"); }
  void on_after_batch_transfer(Batch&) override { at("on_after_batch_transfer"); }
  void on_train_batch_start(const Batch&, StepContext&) override { at("on_train_batch_start"); }
  void on_train_batch_end(const Tensor&, const Batch&, StepContext&) override { at("on_train_batch_end"); }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    return at("training_step"), Probe::training_step(batch, step);
  }
  void on_before_zero_grad(optim::Optimizer&) override { at("on_before_zero_grad"); }
  void optimizer_zero_grad(optim::Optimizer& o) override { at("optimizer_zero_grad"), Probe::optimizer_zero_grad(o); }
  void on_before_backward(const Tensor&) override { at("on_before_backward"); }
  void backward(const Tensor& loss) override { at("backward"), Probe::backward(loss); }
  void on_after_backward() override { at("on_after_backward"); }
  void on_before_optimizer_step(optim::Optimizer&) override { at("on_before_optimizer_step"); }
  void configure_gradient_clipping(optim::Optimizer&, double, std::string_view) override {
    at("configure_gradient_clipping");
  }
  void optimizer_step(optim::Optimizer& o) override { at("optimizer_step"), Probe::optimizer_step(o); }
  void lr_scheduler_step(optim::LRScheduler&) override { at("lr_scheduler_step"); }
  void on_validation_model_zero_grad() override { at("on_validation_model_zero_grad"); }
  void on_validation_model_eval() override { at("on_validation_model_eval"); }
  void on_validation_model_train() override { at("on_validation_model_train"); }
  void on_validation_start() override { at("on_validation_start"); }
  void on_validation_end() override { at("on_validation_end"); }
  void on_validation_epoch_start() override { at("on_validation_epoch_start"); }
  void on_validation_epoch_end() override { at("on_validation_epoch_end"); }
  void on_validation_batch_start(const Batch&, StepContext&) override { at("on_validation_batch_start"); }
  void validation_step(const Batch&, StepContext&) override { at("validation_step"); }
  void on_validation_batch_end(const Batch&, StepContext&) override { at("on_validation_batch_end"); }
  void on_test_model_eval() override { at("on_test_model_eval"); }
  void on_test_model_train() override { at("on_test_model_train"); }
  void on_test_start() override { at("on_test_start"); }
  void on_test_end() override { at("on_test_end"); }
  void on_test_epoch_start() override { at("on_test_epoch_start"); }
  void on_test_epoch_end() override { at("on_test_epoch_end"); }
  void on_test_batch_start(const Batch&, StepContext&) override { at("on_test_batch_start"); }
  void test_step(const Batch&, StepContext&) override { at("test_step"); }
  void on_test_batch_end(const Batch&, StepContext&) override { at("on_test_batch_end"); }
  void on_predict_model_eval() override { at("on_predict_model_eval"); }
  void on_predict_model_train() override { at("on_predict_model_train"); }
  void on_predict_start() override { at("on_predict_start"); }
  void on_predict_end() override { at("on_predict_end"); }
  void on_predict_epoch_start() override { at("on_predict_epoch_start"); }
  void on_predict_epoch_end() override { at("on_predict_epoch_end"); }
  void on_predict_batch_start(const Batch&, StepContext&) override { at("on_predict_batch_start"); }
  Batch predict_step(const Batch& batch, StepContext&) override { return at("predict_step"), batch; }
  void on_predict_batch_end(const Batch&, const Batch&, StepContext&) override { at("on_predict_batch_end"); }
  void on_save_checkpoint(Checkpoint&) override { at("on_save_checkpoint"); }
  void on_load_checkpoint(Checkpoint&) override { at("on_load_checkpoint"); }
};

// The hooks that a module does not have.
LambdaCallback of_callbacks(Everywhere& module) {
  return LambdaCallback(
      {.on_exception = [&](Trainer&, TrainingModule&, const std::exception_ptr&) { module.at("on_exception"); },
       .on_sanity_check_start = [&](Trainer&, TrainingModule&) { module.at("on_sanity_check_start"); },
       .on_sanity_check_end = [&](Trainer&, TrainingModule&) { module.at("on_sanity_check_end"); }});
}

// The names of what comes of a metric that is logged in that hook.
Texts logged_in(const std::string& hook, const LogOptions& options = {}) {
  Everywhere module;
  module.where = hook;
  module.options = options;
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {of_callbacks(module)}}));
  trainer.fit(module, counting_loader(1), counting_loader(1));
  trainer.fit(module, counting_loader(1), counting_loader(1), {.continue_run = true});  // saves and loads
  trainer.test(module, counting_loader(1));
  trainer.predict(module, counting_loader(1));
  Texts names;
  for (const auto& [name, value] : trainer.callback_metrics()) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

TEST(Log, DefaultsGoByTheHook) {
  for (const char* hook : {"on_train_batch_start", "training_step", "on_before_zero_grad", "optimizer_zero_grad",
                           "on_before_backward", "backward", "on_after_backward", "on_before_optimizer_step",
                           "configure_gradient_clipping", "optimizer_step", "on_train_batch_end"}) {
    EXPECT_EQ(logged_in(hook), Texts{"k"}) << hook;
    EXPECT_EQ(logged_in(hook, {.on_epoch = true}), (Texts{"k", "k_epoch", "k_step"})) << hook;
  }
  for (const char* hook : {"on_validation_batch_start", "validation_step", "on_validation_batch_end",
                           "on_test_batch_start", "test_step", "on_test_batch_end"}) {
    EXPECT_EQ(logged_in(hook), Texts{"k"}) << hook;
    EXPECT_EQ(logged_in(hook, {.on_step = true}), (Texts{"k", "k_epoch"})) << hook;
  }
  for (const char* hook : {"on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_validation_start",
                           "on_validation_epoch_start", "on_validation_epoch_end", "on_test_start",
                           "on_test_epoch_start", "on_test_epoch_end"}) {
    EXPECT_EQ(logged_in(hook), Texts{"k"}) << hook;
    expect_contains(message_of<Error>([&] { logged_in(hook, {.on_step = true}); }),
                    std::string("on_step is not possible in ") + hook);
  }
}

TEST(Log, Where) {
  for (const char* hook : {"prepare_data",
                           "setup",
                           "teardown",
                           "configure_model",
                           "configure_callbacks",
                           "configure_optimizers",
                           "on_fit_start",
                           "on_fit_end",
                           "on_sanity_check_start",
                           "on_sanity_check_end",
                           "on_train_end",
                           "on_before_batch_transfer",
                           "transfer_batch_to_device",
                           "on_after_batch_transfer",
                           "lr_scheduler_step",
                           "on_validation_model_zero_grad",
                           "on_validation_model_eval",
                           "on_validation_model_train",
                           "on_validation_end",
                           "on_test_model_eval",
                           "on_test_model_train",
                           "on_test_end",
                           "on_predict_model_eval",
                           "on_predict_model_train",
                           "on_predict_start",
                           "on_predict_end",
                           "on_predict_epoch_start",
                           "on_predict_epoch_end",
                           "on_predict_batch_start",
                           "predict_step",
                           "on_predict_batch_end",
                           "on_save_checkpoint",
                           "on_load_checkpoint"})
    EXPECT_EQ(message_of<Error>([&] { logged_in(hook); }), format("log: k cannot be logged in {}", hook));
  Everywhere module;
  module.where = "on_exception";
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .callbacks = {of_callbacks(module)}});
  options.sink = [&](std::string_view line) { text += line; };
  module.in_training_step = [](const Batch&, StepContext&) { throw Error("the first"); };
  EXPECT_EQ(message_of<Error>([&] { Trainer(options).fit(module, counting_loader(1)); }), "the first");
  expect_contains(text, "log: k cannot be logged in on_exception");
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_THROW(trainer.log("k", 1), Error);
}

}  // namespace
}  // namespace anneal_test
