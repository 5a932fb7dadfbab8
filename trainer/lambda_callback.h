// A callback made of functions.
#pragma once

#include <exception>
#include <functional>
#include <utility>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// Functions for hooks of Callback, by their names, which take the same arguments. Those left empty do nothing.
struct LambdaHooks {
  template <class... Args>
  using Hook = std::function<void(Trainer&, TrainingModule&, Args...)>;

  Hook<Stage> setup = {};
  Hook<Stage> teardown = {};
  Hook<const std::exception_ptr&> on_exception = {};
  Hook<int> on_signal = {};
  Hook<> on_fit_start = {};
  Hook<> on_fit_end = {};
  Hook<> on_sanity_check_start = {};
  Hook<> on_sanity_check_end = {};
  Hook<> on_train_start = {};
  Hook<> on_train_end = {};
  Hook<> on_train_epoch_start = {};
  Hook<> on_train_epoch_end = {};
  Hook<const Batch&, StepContext&> on_train_batch_start = {};
  Hook<const Tensor&, const Batch&, StepContext&> on_train_batch_end = {};
  Hook<optim::Optimizer&> on_before_zero_grad = {};
  Hook<const Tensor&> on_before_backward = {};
  Hook<> on_after_backward = {};
  Hook<optim::Optimizer&> on_before_optimizer_step = {};
  Hook<const Batch&, StepContext&> on_swa_batch = {};
  Hook<> on_validation_start = {};
  Hook<> on_validation_end = {};
  Hook<> on_validation_epoch_start = {};
  Hook<> on_validation_epoch_end = {};
  Hook<const Batch&, StepContext&> on_validation_batch_start = {};
  Hook<const Batch&, StepContext&> on_validation_batch_end = {};
  Hook<> on_test_start = {};
  Hook<> on_test_end = {};
  Hook<> on_test_epoch_start = {};
  Hook<> on_test_epoch_end = {};
  Hook<const Batch&, StepContext&> on_test_batch_start = {};
  Hook<const Batch&, StepContext&> on_test_batch_end = {};
  Hook<> on_predict_start = {};
  Hook<> on_predict_end = {};
  Hook<> on_predict_epoch_start = {};
  Hook<> on_predict_epoch_end = {};
  Hook<const Batch&, StepContext&> on_predict_batch_start = {};
  Hook<const Batch&, const Batch&, StepContext&> on_predict_batch_end = {};
  Hook<Checkpoint&> on_save_checkpoint = {};
  Hook<Checkpoint&> on_load_checkpoint = {};
};

/// `LambdaCallback({.on_train_start = [](Trainer& trainer, TrainingModule&) { trainer.print("here we go"); }})`
class LambdaCallback final : public Callback {
 public:
  explicit LambdaCallback(LambdaHooks hooks) : hooks_(std::move(hooks)) {}

  void setup(Trainer& t, TrainingModule& m, Stage stage) override { call(hooks_.setup, t, m, stage); }
  void teardown(Trainer& t, TrainingModule& m, Stage stage) override { call(hooks_.teardown, t, m, stage); }
  void on_exception(Trainer& t, TrainingModule& m, const std::exception_ptr& error) override {
    call(hooks_.on_exception, t, m, error);
  }
  void on_signal(Trainer& t, TrainingModule& m, int signal) override { call(hooks_.on_signal, t, m, signal); }
  void on_fit_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_fit_start, t, m); }
  void on_fit_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_fit_end, t, m); }
  void on_sanity_check_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_sanity_check_start, t, m); }
  void on_sanity_check_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_sanity_check_end, t, m); }
  void on_train_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_train_start, t, m); }
  void on_train_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_train_end, t, m); }
  void on_train_epoch_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_train_epoch_start, t, m); }
  void on_train_epoch_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_train_epoch_end, t, m); }
  void on_train_batch_start(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_train_batch_start, t, m, batch, step);
  }
  void on_train_batch_end(Trainer& t, TrainingModule& m, const Tensor& loss, const Batch& batch,
                          StepContext& step) override {
    call(hooks_.on_train_batch_end, t, m, loss, batch, step);
  }
  void on_before_zero_grad(Trainer& t, TrainingModule& m, optim::Optimizer& optimizer) override {
    call(hooks_.on_before_zero_grad, t, m, optimizer);
  }
  void on_before_backward(Trainer& t, TrainingModule& m, const Tensor& loss) override {
    call(hooks_.on_before_backward, t, m, loss);
  }
  void on_after_backward(Trainer& t, TrainingModule& m) override { call(hooks_.on_after_backward, t, m); }
  void on_before_optimizer_step(Trainer& t, TrainingModule& m, optim::Optimizer& optimizer) override {
    call(hooks_.on_before_optimizer_step, t, m, optimizer);
  }
  void on_swa_batch(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_swa_batch, t, m, batch, step);
  }
  void on_validation_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_validation_start, t, m); }
  void on_validation_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_validation_end, t, m); }
  void on_validation_epoch_start(Trainer& t, TrainingModule& m) override {
    call(hooks_.on_validation_epoch_start, t, m);
  }
  void on_validation_epoch_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_validation_epoch_end, t, m); }
  void on_validation_batch_start(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_validation_batch_start, t, m, batch, step);
  }
  void on_validation_batch_end(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_validation_batch_end, t, m, batch, step);
  }
  void on_test_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_test_start, t, m); }
  void on_test_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_test_end, t, m); }
  void on_test_epoch_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_test_epoch_start, t, m); }
  void on_test_epoch_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_test_epoch_end, t, m); }
  void on_test_batch_start(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_test_batch_start, t, m, batch, step);
  }
  void on_test_batch_end(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_test_batch_end, t, m, batch, step);
  }
  void on_predict_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_predict_start, t, m); }
  void on_predict_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_predict_end, t, m); }
  void on_predict_epoch_start(Trainer& t, TrainingModule& m) override { call(hooks_.on_predict_epoch_start, t, m); }
  void on_predict_epoch_end(Trainer& t, TrainingModule& m) override { call(hooks_.on_predict_epoch_end, t, m); }
  void on_predict_batch_start(Trainer& t, TrainingModule& m, const Batch& batch, StepContext& step) override {
    call(hooks_.on_predict_batch_start, t, m, batch, step);
  }
  void on_predict_batch_end(Trainer& t, TrainingModule& m, const Batch& prediction, const Batch& batch,
                            StepContext& step) override {
    call(hooks_.on_predict_batch_end, t, m, prediction, batch, step);
  }
  void on_save_checkpoint(Trainer& t, TrainingModule& m, Checkpoint& checkpoint) override {
    call(hooks_.on_save_checkpoint, t, m, checkpoint);
  }
  void on_load_checkpoint(Trainer& t, TrainingModule& m, Checkpoint& checkpoint) override {
    call(hooks_.on_load_checkpoint, t, m, checkpoint);
  }

 private:
  template <class F, class... Args>
  static void call(const F& hook, Args&&... args) {
    if (hook) hook(std::forward<Args>(args)...);
  }

  LambdaHooks hooks_;
};

}  // namespace v0
}  // namespace anneal
