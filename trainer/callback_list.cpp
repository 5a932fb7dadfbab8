#include "anneal/trainer/callback_list.h"

#include <algorithm>

#include "anneal/trainer/checkpoint.h"

namespace anneal {
inline namespace v0 {
namespace {

template <class T>
bool is(const Shared<Callback>& callback) {
  return dynamic_cast<const T*>(callback.get()) != nullptr;
}

}  // namespace

std::vector<Shared<Callback>> with_standard_callbacks(const TrainerOptions& o, bool rich) {
  std::vector<Shared<Callback>> callbacks = o.callbacks;
  if (o.max_time && std::none_of(callbacks.begin(), callbacks.end(), is<Timer>))
    callbacks.push_back(Timer({.duration = *o.max_time}));
  if (o.enable_progress_bar && std::none_of(callbacks.begin(), callbacks.end(), is<ProgressBar>))
    callbacks.push_back(rich ? Shared<Callback>(RichProgressBar({.refresh_rate = 1}))
                             : Shared<Callback>(ProgressBar()));
  if (o.enable_model_summary && std::none_of(callbacks.begin(), callbacks.end(), is<ModelSummary>))
    callbacks.push_back(ModelSummary());
  if (o.enable_checkpointing && std::none_of(callbacks.begin(), callbacks.end(), is<ModelCheckpoint>) &&
      o.fast_dev_run == 0)
    callbacks.push_back(ModelCheckpoint());
  return callbacks;
}

void set_callbacks(TrainerState& s, std::vector<Shared<Callback>> callbacks) {
  for (const auto& callback : callbacks)
    check<ConfigError>(static_cast<bool>(callback), "callbacks: one of them is null");
  const auto bars = std::count_if(callbacks.begin(), callbacks.end(), is<ProgressBar>);
  const auto checkpoints = std::count_if(callbacks.begin(), callbacks.end(), is<ModelCheckpoint>);
  check<ConfigError>(bars <= 1, "callbacks: expected at most one ProgressBar, got {}", bars);
  check<ConfigError>(s.options.enable_progress_bar || bars == 0,
                     "enable_progress_bar: false, but callbacks has a ProgressBar");
  check<ConfigError>(s.options.enable_checkpointing || checkpoints == 0,
                     "enable_checkpointing: false, but callbacks has a ModelCheckpoint");
  std::stable_partition(callbacks.begin(), callbacks.end(),
                        [](const auto& callback) { return !is<ModelCheckpoint>(callback); });
  std::stable_partition(callbacks.begin(), callbacks.end(), [](const auto& callback) {
    return is<BatchSizeFinder>(callback) || is<LearningRateFinder>(callback);
  });
  for (auto a = callbacks.begin(); a != callbacks.end(); ++a)
    for (auto b = callbacks.begin(); b != a; ++b)
      check<ConfigError>((*a)->state_key().empty() || (*a)->state_key() != (*b)->state_key(),
                         "callbacks: two have the state key \"{}\"", (*a)->state_key());
  const auto quiet = std::stable_partition(callbacks.begin(), callbacks.end(), [&](const auto& callback) {
    return s.rank() == 0 || !callback->rank_zero_only();
  });
  s.quiet_callbacks.assign(quiet, callbacks.end());
  callbacks.erase(quiet, callbacks.end());
  s.callbacks = std::move(callbacks);
}

void add_callbacks_of_module(TrainerState& s) {
  const std::vector<Shared<Callback>> own =
      s.call_module(HookPoint::configure_callbacks, &TrainingModule::configure_callbacks);
  if (own.empty()) return;
  std::vector<Shared<Callback>> all = s.callbacks;
  all.insert(all.end(), s.quiet_callbacks.begin(), s.quiet_callbacks.end());
  for (const auto& callback : own) {
    check<ConfigError>(static_cast<bool>(callback), "configure_callbacks: one of them is null");
    if (std::erase_if(all, [&](const auto& other) { return callback->replaces(*other); }) > 0)
      s.console.print("configure_callbacks: a callback of the module replaces the Trainer's of its type");
  }
  all.insert(all.end(), own.begin(), own.end());
  set_callbacks(s, std::move(all));
}

void share_callbacks(TrainerState& s) {
  if (!s.world) return;
  for (const Shared<Callback>& callback : s.rank() == 0 ? s.callbacks : s.quiet_callbacks) {
    if (!callback->rank_zero_only()) continue;
    const std::string state = s.from_rank_zero("trainer/callback", to_text(callback->state()));
    if (s.rank() > 0) callback->load_state(state_from(state));
  }
}

}  // namespace v0
}  // namespace anneal
