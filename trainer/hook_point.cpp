#include "anneal/trainer/hook_point.h"

#include <cstddef>
#include <iterator>

namespace anneal {
inline namespace v0 {
namespace {

using enum LogLevel;
constexpr Loop train = Loop::train, validation = Loop::validation, test = Loop::test;

constexpr HookInfo hooks[] = {
    {"a place outside of a run", Loop::none, nowhere},
    {"prepare_data", Loop::none, nowhere},
    {"setup", Loop::none, nowhere},
    {"configure_callbacks", Loop::none, nowhere},
    {"configure_model", Loop::none, nowhere},
    {"configure_optimizers", Loop::none, nowhere},
    {"on_fit_start", Loop::none, nowhere},
    {"on_sanity_check_start", Loop::none, nowhere},
    {"on_sanity_check_end", Loop::none, nowhere},
    {"on_train_start", train, only_epoch},
    {"on_train_epoch_start", train, only_epoch},
    {"on_before_batch_transfer", Loop::none, nowhere},
    {"transfer_batch_to_device", Loop::none, nowhere},
    {"on_after_batch_transfer", Loop::none, nowhere},
    {"on_train_batch_start", train, step},
    {"training_step", train, step},
    {"on_before_zero_grad", train, step},
    {"optimizer_zero_grad", train, step},
    {"on_before_backward", train, step},
    {"backward", train, step},
    {"on_after_backward", train, step},
    {"on_before_optimizer_step", train, step},
    {"configure_gradient_clipping", train, step},
    {"optimizer_step", train, step},
    {"lr_scheduler_step", Loop::none, nowhere},
    {"on_train_batch_end", train, step},
    {"on_train_epoch_end", train, only_epoch},
    {"on_train_end", Loop::none, nowhere},
    {"on_swa_batch", Loop::none, nowhere},
    {"on_signal", Loop::none, nowhere},
    {"on_fit_end", Loop::none, nowhere},
    {"on_validation_model_zero_grad", Loop::none, nowhere},
    {"on_validation_model_eval", Loop::none, nowhere},
    {"on_validation_start", validation, only_epoch},
    {"on_validation_epoch_start", validation, only_epoch},
    {"on_validation_batch_start", validation, epoch},
    {"validation_step", validation, epoch},
    {"on_validation_batch_end", validation, epoch},
    {"on_validation_epoch_end", validation, only_epoch},
    {"on_validation_end", Loop::none, nowhere},
    {"on_validation_model_train", Loop::none, nowhere},
    {"on_test_model_eval", Loop::none, nowhere},
    {"on_test_start", test, only_epoch},
    {"on_test_epoch_start", test, only_epoch},
    {"on_test_batch_start", test, epoch},
    {"test_step", test, epoch},
    {"on_test_batch_end", test, epoch},
    {"on_test_epoch_end", test, only_epoch},
    {"on_test_end", Loop::none, nowhere},
    {"on_test_model_train", Loop::none, nowhere},
    {"on_predict_model_eval", Loop::none, nowhere},
    {"on_predict_start", Loop::none, nowhere},
    {"on_predict_epoch_start", Loop::none, nowhere},
    {"on_predict_batch_start", Loop::none, nowhere},
    {"predict_step", Loop::none, nowhere},
    {"on_predict_batch_end", Loop::none, nowhere},
    {"on_predict_epoch_end", Loop::none, nowhere},
    {"on_predict_end", Loop::none, nowhere},
    {"on_predict_model_train", Loop::none, nowhere},
    {"on_save_checkpoint", Loop::none, nowhere},
    {"on_load_checkpoint", Loop::none, nowhere},
    {"on_exception", Loop::none, nowhere},
    {"teardown", Loop::none, nowhere},
};
static_assert(std::size(hooks) == static_cast<std::size_t>(HookPoint::teardown) + 1);

}  // namespace

const HookInfo& info(HookPoint point) { return hooks[static_cast<std::size_t>(point)]; }

}  // namespace v0
}  // namespace anneal
