// The places at which a Trainer calls its callbacks and its module, and what may be logged there.
#pragma once

#include <cstdint>

namespace anneal {
inline namespace v0 {

enum class Stage : std::uint8_t { fit, sanity_check, validate, test, predict };

/// In the order of a run; those from training_step to optimizer_step lie within a micro-batch that is half done.
enum class HookPoint : std::uint8_t {
  none,
  prepare_data,
  setup,
  configure_callbacks,
  configure_model,
  configure_optimizers,
  on_fit_start,
  on_sanity_check_start,
  on_sanity_check_end,
  on_train_start,
  on_train_epoch_start,
  on_before_batch_transfer,
  transfer_batch_to_device,
  on_after_batch_transfer,
  on_train_batch_start,
  training_step,
  on_before_zero_grad,
  optimizer_zero_grad,
  on_before_backward,
  backward,
  on_after_backward,
  on_before_optimizer_step,
  configure_gradient_clipping,
  optimizer_step,
  lr_scheduler_step,
  on_train_batch_end,
  on_train_epoch_end,
  on_train_end,
  on_swa_batch,
  on_signal,
  on_fit_end,
  on_validation_model_zero_grad,
  on_validation_model_eval,
  on_validation_start,
  on_validation_epoch_start,
  on_validation_batch_start,
  validation_step,
  on_validation_batch_end,
  on_validation_epoch_end,
  on_validation_end,
  on_validation_model_train,
  on_test_model_eval,
  on_test_start,
  on_test_epoch_start,
  on_test_batch_start,
  test_step,
  on_test_batch_end,
  on_test_epoch_end,
  on_test_end,
  on_test_model_train,
  on_predict_model_eval,
  on_predict_start,
  on_predict_epoch_start,
  on_predict_batch_start,
  predict_step,
  on_predict_batch_end,
  on_predict_epoch_end,
  on_predict_end,
  on_predict_model_train,
  on_save_checkpoint,
  on_load_checkpoint,
  on_exception,
  teardown,
};

/// Which loop a hook's metrics belong to.
enum class Loop : std::uint8_t { none, train, validation, test };
/// `nowhere`: log throws. `step`, `epoch`: the default. `only_epoch`: a step's value makes no sense there.
enum class LogLevel : std::uint8_t { nowhere, step, epoch, only_epoch };

struct HookInfo {
  const char* name;
  Loop loop;
  LogLevel level;
};
const HookInfo& info(HookPoint point);

}  // namespace v0
}  // namespace anneal
