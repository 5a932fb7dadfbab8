// The parts of a checkpoint as JSON, and back. Private.
#pragma once

#include <nlohmann/json.hpp>

#include "anneal/trainer/checkpoint.h"

namespace anneal {
inline namespace v0 {

nlohmann::json to_json(const StateMap& state);
StateMap to_state(const nlohmann::json& j);
nlohmann::json to_json(const Counters& counters);
Counters to_counters(const nlohmann::json& j);
nlohmann::json to_json(const MetricLog::State& state);
MetricLog::State to_logging(const nlohmann::json& j);
nlohmann::json to_json(const Checkpoint::Optimizer& optimizer);
Checkpoint::Optimizer to_optimizer(const nlohmann::json& j);
nlohmann::json hparams_json(const HParams& hparams);
HParams to_hparams(const nlohmann::json& j);

}  // namespace v0
}  // namespace anneal
