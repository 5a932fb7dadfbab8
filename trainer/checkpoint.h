// The checkpoint file: a safetensors file with the weights under their plain names, and everything else of a run beside
// them.
//
//   <parameter or buffer>            the model
//   optimizer.0.<state>.<parameter>  the optimizer's state
//   accumulation.<parameter>         gradients, in the middle of an accumulation window
//   generator.train                  seed and offset, as i64
//   scaler.<name>                    the loss scale and its counts
//   <section>.<name>                 what hooks add
//
// The rest is JSON in the file's metadata, key "anneal", with a checksum of each tensor's bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/core/named_tensor.h"
#include "anneal/kernels/kernels.h"
#include "anneal/trainer/counters.h"
#include "anneal/trainer/hparams.h"
#include "anneal/trainer/metric_log.h"
#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

struct Checkpoint {
  struct Optimizer {
    std::string type;
    StateDict state;
    std::vector<kernels::OptimGroup> groups;
    std::vector<std::vector<std::string>> parameters;  ///< their names, of each group
    std::vector<double> base_lr;                       ///< what the schedule starts from, of the groups that it moves
    std::int64_t schedule_steps = 0;
    std::int64_t steps = 0;
    std::vector<double> plateau;  ///< best value, bad looks, cooldown, looks, checks at the last look; or empty
  };
  struct Loader {
    std::int64_t size = 0, batch_size = 0;
    std::uint64_t seed = 0;
    StateMap stream = {};  ///< where its pass stood
  };

  bool weights_only = false;  ///< only model, counters, seed, hyper-parameters, user and extra are there
  StateDict model, accumulation, scaler;
  std::vector<Optimizer> optimizers;
  Generator generator;
  std::uint64_t seed = 0;
  Counters counters;
  std::string precision;  ///< TrainerOptions::precision
  double time = 0;        ///< seconds of the fit, with what it was resumed from
  int ranks = 1;          ///< that trained together
  Loader loader;
  MetricLog::State logging;
  std::map<std::string, StateMap> callbacks;
  std::vector<StateMap> loggers;
  StateMap user;                  ///< the module's own
  StateMap data;                  ///< the DataModule's
  HParams hparams, data_hparams;  ///< of both
  HParams given;                  ///< SaveOptions::extra; its tensors are the section of that name
  static constexpr const char* given_section = "given";
  /// Tensors of the module's and of callbacks, in sections: "<section>.<name>" in the file. A section's name has no
  /// dot.
  std::map<std::string, StateDict> extra;
};

void save_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);
/// A callback's state as text, and back: how ranks tell it each other.
std::string to_text(const StateMap& state);
StateMap state_from(const std::string& text);
/// Throws Error, which names the file and what is wrong, for one that is missing, damaged or not a checkpoint.
Checkpoint load_checkpoint(const std::filesystem::path& path);

}  // namespace v0
}  // namespace anneal
