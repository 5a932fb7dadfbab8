#include "anneal/trainer/run_loaders.h"

#include <algorithm>

namespace anneal {
inline namespace v0 {
namespace {

// With overfit_batches every epoch sees the same batches.
DataLoader in_order_to_overfit(TrainerState& s, const DataLoader& loader) {
  if (s.options.overfit_batches.value() == 0 || (!loader.options().shuffle && !loader.options().sampler)) return loader;
  s.console.warn("overfit_batches: a loader's order is replaced by that of its dataset");
  DataLoaderOptions options = loader.options();
  options.shuffle = false;
  options.sampler = {};
  return DataLoader(loader.dataset(), std::move(options));
}

void check_limits(TrainerState& s) {
  const TrainerOptions& o = s.options;
  check<ConfigError>(s.val.total() == 0 || !o.val_check_interval.is_count() || !o.check_val_every_n_epoch ||
                         o.val_check_interval.value() <= static_cast<double>(s.train_batches),
                     "val_check_interval: expected at most the {} batches of an epoch, got {}", s.train_batches,
                     o.val_check_interval);
  check<ConfigError>(s.val.total() == 0 || !s.train->is_stream() || !o.val_check_interval.is_part(),
                     "val_check_interval: expected a number of batches, a time or 1.0 with a stream, whose size is not "
                     "known, got {}",
                     o.val_check_interval);
  if (s.train->size() == 0) s.console.warn("the train loader is empty");
  if (!s.loggers.empty() && o.log_every_n_steps > s.train_batches && s.train_batches > 0)
    s.console.warn(format(
        "log_every_n_steps ({}) is more than the {} batches of an epoch; epochs may have no rows of step metrics",
        o.log_every_n_steps, s.train_batches));
}

std::int64_t over_ranks(const TrainerState& s, std::int64_t n, ReduceOp op) {
  const Tensor all = scalar(static_cast<double>(n), {.dtype = DType::f64, .device = s.world->group().device()});
  s.world->group().all_reduce(all, op);
  return static_cast<std::int64_t>(all.item());
}

DataLoader empty_batches(std::int64_t n) {
  const auto nothing = [](auto) { return Batch(); };
  return DataLoader(make_dataset(n, nothing, nothing));
}

// A rank without batches, where that is allowed, takes part in the others' sums.
void join_with_empty_batches(TrainerState& s) {
  if (!s.world || !s.data->allow_zero_length()) return;
  const std::int64_t most = over_ranks(s, s.train_batches, ReduceOp::max);
  if (s.train_batches > 0 || most == unknown_size) return;
  s.train = empty_batches(most);
  s.train_batches = s.counters.epoch_batches = most;
}

// Ranks whose loops differ would wait for each other for ever.
void check_ranks_agree(TrainerState& s) {
  if (!s.world) return;
  const std::string first = s.from_rank_zero("trainer/batches", std::to_string(s.train_batches));
  check<ConfigError>(
      !s.any_rank(first != std::to_string(s.train_batches)),
      "train loader: expected equally many batches on all ranks, but rank 0 has {} and this one, rank {}, "
      "has {}{}",
      first, s.rank(), s.train_batches,
      first == "0" || s.train_batches == 0 ? "; a rank may have none if allow_zero_length says so" : "");
}
void agree_on_batches(TrainerState& s, LimitedLoaders& set) {
  if (!s.world) return;
  const bool none = s.any_rank(set.total() == 0), some = s.any_rank(set.total() > 0);
  check<ConfigError>(!none || !some || s.data->allow_zero_length(),
                     "loaders: expected batches on all ranks or on none; rank {} has {}; a rank may have none if "
                     "allow_zero_length says so",
                     s.rank(), set.total());
  if (none && set.total() == 0 && some) {
    set.loaders.assign(std::max<std::size_t>(set.loaders.size(), 1), empty_batches(1));
    set.batches.assign(set.loaders.size(), 1);
  }
  const bool has_stream = std::ranges::any_of(set.loaders, &DataLoader::is_stream);
  set.on_all_ranks = over_ranks(s, has_stream ? 0 : set.total(), ReduceOp::min);
}

}  // namespace

void load_fit_loaders(TrainerState& s) {
  const std::int64_t every = s.options.reload_dataloaders_every_n_epochs, epoch = s.counters.epoch.completed;
  s.loaded_at = epoch;
  // What the DataModule draws here a resumed run draws again.
  Generator generator = epoch_generator(s.seed + 0xd1b54a32d192ed03, every > 0 ? epoch / every : 0, 0);
  const GeneratorScope scope(generator);
  const LoaderFunction in_order = [&](const DataLoader& loader) { return in_order_to_overfit(s, loader); };
  DataLoader train = s.data->train_dataloader().each(in_order);
  LoaderSet val = s.data->val_dataloader();
  if (!s.parts.validation_step && !val.loaders.empty()) {
    s.console.warn("there is a loader for validation, but the module has no validation_step; nothing is validated");
    val = {};
  }
  for (DataLoader& loader : val.loaders) loader = loader.each(in_order);
  s.val = s.limited(val, "limit_val_batches", s.options.limit_val_batches);
  agree_on_batches(s, s.val);
  set_train_loader(s, s.share_of(train));
}

void set_train_loader(TrainerState& s, DataLoader share) {
  s.train = std::move(share);
  s.train_batches = s.limit(*s.train, "limit_train_batches", s.options.limit_train_batches);
  s.counters.epoch_batches = s.train_batches;
  join_with_empty_batches(s);
  check_ranks_agree(s);
  check_limits(s);
}

void reload_fit_loaders(TrainerState& s) {
  const std::int64_t every = s.options.reload_dataloaders_every_n_epochs, epoch = s.counters.epoch.completed;
  if (every > 0 && epoch / every != s.loaded_at / every) load_fit_loaders(s);
}

void load_evaluation_loaders(TrainerState& s) {
  const auto load = [&](const char* from, const LoaderSet& set) {
    check<ConfigError>(!set.loaders.empty(), "{}: expected a loader at least, got none, and this run needs one", from);
    set_evaluation_loaders(s, set);
  };
  if (s.stage == Stage::validate) return load("val_dataloader", s.data->val_dataloader());
  if (s.stage == Stage::test) return load("test_dataloader", s.data->test_dataloader());
  load("predict_dataloader", s.data->predict_dataloader());
}

void set_evaluation_loaders(TrainerState& s, const LoaderSet& set) {
  const TrainerOptions& o = s.options;
  if (s.stage == Stage::validate) {
    s.val = s.own_run = s.limited(set, "limit_val_batches", o.limit_val_batches);
  } else if (s.stage == Stage::test) {
    s.own_run = s.limited(set, "limit_test_batches", o.limit_test_batches);
  } else {
    check<ConfigError>(std::ranges::none_of(set.loaders, &DataLoader::is_combined),
                       "predict_dataloader: expected loaders one after the other, got combined ones");
    s.own_run = s.limited(set, "limit_predict_batches", o.limit_predict_batches);
  }
  agree_on_batches(s, s.own_run);
}

}  // namespace v0
}  // namespace anneal
