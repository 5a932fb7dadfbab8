#include "anneal/trainer/checkpoint_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "anneal/core/error.h"
#include "anneal/core/version.h"

namespace anneal {
inline namespace v0 {
namespace {

using nlohmann::json;

constexpr int format_version = 2;

// JSON has no NaN and no infinity.
json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}
double to_number(const json& j) {
  if (!j.is_string()) return j.get<double>();
  return j == "nan" ? NAN : j == "inf" ? INFINITY : -INFINITY;
}

json to_json(const std::vector<double>& numbers) {
  json j = json::array();
  for (const double x : numbers) j.push_back(number(x));
  return j;
}
std::vector<double> to_numbers(const json& j) {
  std::vector<double> numbers;
  for (const json& x : j) numbers.push_back(to_number(x));
  return numbers;
}

json to_json(const MetricMap& metrics) {
  json j = json::array();
  for (const auto& [name, value] : metrics) j.push_back({name, number(value)});
  return j;
}
MetricMap to_metrics(const json& j) {
  MetricMap metrics;
  for (const json& entry : j) metrics.set(entry.at(0).get<std::string>(), to_number(entry.at(1)));
  return metrics;
}

json to_json(const Progress& p) {
  return {{"ready", p.ready}, {"started", p.started}, {"processed", p.processed}, {"completed", p.completed}};
}
Progress to_progress(const json& j) { return {j.at("ready"), j.at("started"), j.at("processed"), j.at("completed")}; }

json to_json(const Reduction& r) { return {number(r.total), number(r.weight), number(r.last), r.count}; }
Reduction to_reduction(const json& j) {
  return {to_number(j.at(0)), to_number(j.at(1)), to_number(j.at(2)), j.at(3).get<std::int64_t>()};
}

HParam to_hparam(std::size_t type, const json& j) {
  switch (type) {
    case 0: return j.get<bool>();
    case 1: return j.get<std::int64_t>();
    case 2: return to_number(j);
    case 3: return j.get<std::string>();
    case 4: return j.get<std::vector<std::int64_t>>();
    case 5: return to_numbers(j);
    case 6: return j.get<std::vector<std::string>>();
    default: throw Error(format("a hyper-parameter of the unknown type {}", type));
  }
}

HookPoint to_hook(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(HookPoint::teardown); ++i)
    if (info(static_cast<HookPoint>(i)).name == name) return static_cast<HookPoint>(i);
  throw Error(format("unknown hook {}", name));
}
Reduce to_reduce(int value) {
  check(value >= 0 && value <= static_cast<int>(Reduce::max), "unknown reduction {}", value);
  return static_cast<Reduce>(value);
}

json to_json(const kernels::OptimGroup& g) {
  return {{"lr", number(g.lr)},
          {"beta1", g.beta1},
          {"beta2", g.beta2},
          {"eps", g.eps},
          {"weight_decay", g.weight_decay},
          {"momentum", g.momentum},
          {"dampening", g.dampening},
          {"nesterov", g.nesterov},
          {"maximize", g.maximize},
          {"decoupled", g.decoupled}};
}
kernels::OptimGroup to_group(const json& j) {
  return {.lr = to_number(j.at("lr")),
          .beta1 = j.at("beta1"),
          .beta2 = j.at("beta2"),
          .eps = j.at("eps"),
          .weight_decay = j.at("weight_decay"),
          .momentum = j.at("momentum"),
          .dampening = j.at("dampening"),
          .nesterov = j.at("nesterov"),
          .maximize = j.at("maximize"),
          .decoupled = j.at("decoupled")};
}

json to_json(const StateMap& state) {
  json j = json::object();
  for (const auto& [key, value] : state) {
    // A text and a list of texts need no mark; numbers that JSON cannot hold are marked by an object.
    j[key] = std::visit(
        [](const auto& v) -> json {
          using V = std::decay_t<decltype(v)>;
          if constexpr (std::is_same_v<V, double>) {
            return {{"number", number(v)}};
          } else if constexpr (std::is_same_v<V, std::vector<double>>) {
            return {{"numbers", to_json(v)}};
          } else {
            return v;
          }
        },
        value);
  }
  return j;
}

StateMap to_state(const json& j) {
  StateMap state;
  for (const auto& [key, value] : j.items()) {
    if (value.is_number_integer()) state[key] = value.get<std::int64_t>();
    else if (value.is_string()) state[key] = value.get<std::string>();
    else if (value.is_array()) state[key] = value.get<std::vector<std::string>>();
    else if (value.contains("number")) state[key] = to_number(value["number"]);
    else state[key] = to_numbers(value.at("numbers"));
  }
  return state;
}

json to_json(const Counters& c) {
  return {{"epoch", to_json(c.epoch)},
          {"batch", to_json(c.batch)},
          {"epoch_batches", c.epoch_batches},
          {"total_batches", c.total_batches},
          {"global_step", c.global_step},
          {"accumulate", c.accumulate},
          {"losses", c.losses},
          {"window", c.window},
          {"weighted", c.weighted},
          {"bad", c.bad},
          {"stepped", c.stepped},
          {"checks", c.checks},
          {"checked_at", c.checked_at},
          {"evaluated", c.evaluated}};
}
Counters to_counters(const json& j) {
  Counters c{.epoch = to_progress(j.at("epoch")),
             .batch = to_progress(j.at("batch")),
             .epoch_batches = j.value("epoch_batches", std::int64_t{0}),
             .total_batches = j.at("total_batches"),
             .global_step = j.at("global_step"),
             .accumulate = j.at("accumulate"),
             .losses = j.at("losses"),
             .window = j.at("window"),
             .weighted = j.at("weighted"),
             .bad = j.value("bad", std::int64_t{0}),
             .stepped = j.at("stepped"),
             .checks = j.at("checks"),
             .checked_at = j.at("checked_at")};
  c.evaluated[0] = j.at("evaluated").at(0);
  c.evaluated[1] = j.at("evaluated").at(1);
  return c;
}

json to_json(const MetricLog::State& state) {
  json metrics = json::array();
  for (const MetricLog::Saved& m : state.metrics)
    metrics.push_back({{"name", m.name},
                       {"hook", info(m.hook).name},
                       {"prog_bar", m.prog_bar},
                       {"logger", m.logger},
                       {"on_step", m.on_step},
                       {"on_epoch", m.on_epoch},
                       {"sync_dist", m.sync_dist},
                       {"rank_zero_only", m.rank_zero_only},
                       {"reduce", static_cast<int>(m.reduce)},
                       {"fresh", m.fresh},
                       {"step_value", number(m.step_value)},
                       {"step_weight", number(m.step_weight)},
                       {"window", to_json(m.window)},
                       {"epoch", to_json(m.epoch)},
                       {"sums", to_json(m.sums)}});
  return {{"metrics", metrics},
          {"callback", to_json(state.callback)},
          {"logged", to_json(state.logged)},
          {"bar", to_json(state.bar)}};
}

MetricLog::State to_logging(const json& j) {
  MetricLog::State state{{}, to_metrics(j.at("callback")), to_metrics(j.at("logged")), to_metrics(j.at("bar"))};
  for (const json& m : j.at("metrics"))
    state.metrics.push_back({m.at("name"), to_hook(m.at("hook")), m.at("prog_bar"), m.at("logger"), m.at("on_step"),
                             m.at("on_epoch"), m.value("sync_dist", false), m.value("rank_zero_only", false),
                             to_reduce(m.at("reduce")), m.at("fresh"), to_number(m.at("step_value")),
                             to_number(m.at("step_weight")), to_reduction(m.at("window")), to_reduction(m.at("epoch")),
                             to_numbers(m.value("sums", json::array()))});
  return state;
}

// In their order, each with the number of its type: JSON does not tell that of an empty list.
json hparams_json(const HParams& hparams) {
  json j = json::array();
  for (const auto& [name, value] : hparams)
    j.push_back({name, value.index(),
                 std::visit(
                     [](const auto& v) -> json {
                       using V = std::decay_t<decltype(v)>;
                       if constexpr (std::is_same_v<V, double>) return number(v);
                       else if constexpr (std::is_same_v<V, std::vector<double>>) return to_json(v);
                       else return v;
                     },
                     value)});
  return j;
}
HParams to_hparams(const json& j) {
  HParams hparams;
  for (const json& entry : j) hparams.emplace_back(entry.at(0), to_hparam(entry.at(1), entry.at(2)));
  return hparams;
}

json to_json(const Checkpoint::Optimizer& o) {
  json groups = json::array();
  for (const auto& group : o.groups) groups.push_back(to_json(group));
  return {{"type", o.type},
          {"groups", groups},
          {"parameters", o.parameters},
          {"base_lr", o.base_lr},
          {"schedule_steps", o.schedule_steps},
          {"steps", o.steps},
          {"plateau", to_json(o.plateau)}};
}
Checkpoint::Optimizer to_optimizer(const json& j) {
  Checkpoint::Optimizer o{.type = j.at("type"),
                          .state = {},
                          .groups = {},
                          .parameters = j.value("parameters", std::vector<std::vector<std::string>>()),
                          .base_lr = j.at("base_lr"),
                          .schedule_steps = j.at("schedule_steps"),
                          .steps = j.at("steps"),
                          .plateau = to_numbers(j.at("plateau"))};
  for (const json& group : j.at("groups")) o.groups.push_back(to_group(group));
  return o;
}

}  // namespace

std::string to_text(const StateMap& state) { return to_json(state).dump(); }
StateMap state_from(const std::string& text) { return to_state(json::parse(text)); }

std::string to_metadata(const Checkpoint& c, const Checksums& checksums) {
  json j{{"format_version", format_version},
         {"anneal_version", version},
         {"weights_only", c.weights_only},
         {"epoch", c.counters.epoch.completed},
         {"global_step", c.counters.global_step},
         {"seed", c.seed},
         {"precision", c.precision},
         {"time", c.time},
         {"ranks", c.ranks},
         {"loops", to_json(c.counters)},
         {"loader",
          {{"size", c.loader.size},
           {"batch_size", c.loader.batch_size},
           {"seed", c.loader.seed},
           {"stream", to_json(c.loader.stream)}}},
         {"logging", to_json(c.logging)},
         {"user", to_json(c.user)},
         {"datamodule", to_json(c.data)},
         {"hyper_parameters", hparams_json(c.hparams)},
         {"datamodule_hyper_parameters", hparams_json(c.data_hparams)},
         {"given", hparams_json(c.given)},
         {"extra", json::array()},
         {"optimizers", json::array()},
         {"loggers", json::array()},
         {"callbacks", json::object()},
         {"checksums", checksums}};
  for (const Checkpoint::Optimizer& optimizer : c.optimizers) j["optimizers"].push_back(to_json(optimizer));
  for (const auto& [section, entries] : c.extra) j["extra"].push_back(section);
  for (const StateMap& logger : c.loggers) j["loggers"].push_back(to_json(logger));
  for (const auto& [key, state] : c.callbacks) j["callbacks"][key] = to_json(state);
  try {
    return j.dump();
  } catch (const json::exception& error) {
    throw Error(std::string("a callback's state is not text: ") + error.what());
  }
}

Checksums read_metadata(const std::string& text, Checkpoint& c) try {
  const json j = json::parse(text);
  const int version = j.at("format_version");
  check(version == format_version, "its format version is {}, this library reads {}", version, format_version);
  c.weights_only = j.value("weights_only", false);
  c.seed = j.at("seed");
  c.precision = j.value("precision", "");
  c.time = j.value("time", 0.0);
  c.ranks = j.value("ranks", 1);
  c.counters = to_counters(j.at("loops"));
  const json& loader = j.at("loader");
  c.loader = {loader.at("size"), loader.at("batch_size"), loader.at("seed"),
              to_state(loader.value("stream", json::object()))};
  c.logging = to_logging(j.at("logging"));
  c.user = to_state(j.at("user"));
  c.data = to_state(j.value("datamodule", json::object()));
  c.hparams = to_hparams(j.value("hyper_parameters", json::array()));
  c.data_hparams = to_hparams(j.value("datamodule_hyper_parameters", json::array()));
  c.given = to_hparams(j.value("given", json::array()));
  for (const json& optimizer : j.at("optimizers")) c.optimizers.push_back(to_optimizer(optimizer));
  for (const json& section : j.at("extra")) c.extra[section.get<std::string>()];
  for (const json& logger : j.at("loggers")) c.loggers.push_back(to_state(logger));
  for (const auto& [key, state] : j.at("callbacks").items()) c.callbacks[key] = to_state(state);
  return j.value("checksums", Checksums());
} catch (const json::exception& error) { throw Error(error.what()); }

}  // namespace v0
}  // namespace anneal
