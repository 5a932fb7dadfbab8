#include "anneal/trainer/cli_learning.h"

#include <algorithm>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace cli {
namespace {

struct Scheduler {
  std::string_view name;
  OptionTable (*table)(ScheduleOptions& o);
  optim::Schedule (*make)(const ScheduleOptions& o, const optim::Steps& all);
};

constexpr std::string_view plateau = "plateau";  // no schedule: it goes by a metric
constexpr Scheduler schedulers[] = {
    {"step_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"step_size", &o.step_size, "moves after so many steps"}, {"gamma", &o.gamma, "by this factor"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) { return optim::step_lr(o.step_size, o.gamma); }},
    {"multi_step_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"milestones", &o.milestones, "moves at these steps"}, {"gamma", &o.gamma, "by this factor"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) {
       return optim::multi_step_lr({o.milestones.begin(), o.milestones.end()}, o.gamma);
     }},
    {"exponential_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"gamma", &o.gamma, "the factor of each step"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) { return optim::exponential_lr(o.gamma); }},
    {"linear_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"start_factor", &o.start_factor, "of the rate"},
               {"end_factor", &o.end_factor, "of the rate"},
               {"total_steps", &o.total_steps, "null: to the end of the run"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) {
       return optim::linear_lr(o.start_factor, o.end_factor, all);
     }},
    {"polynomial_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"total_steps", &o.total_steps, "null: to the end of the run"}, {"power", &o.power, "1: a line"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) { return optim::polynomial_lr(all, o.power); }},
    {"cosine_annealing_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"t_max", &o.total_steps, "half a period; null: to the end of the run"},
               {"eta_min", &o.eta_min, "the rate in the end"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) { return optim::cosine_annealing_lr(all, o.eta_min); }},
    {"cosine_annealing_warm_restarts",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"t_0", &o.t_0, "steps of the first period"},
               {"t_mult", &o.t_mult, "each period has so many times the steps of the one before"},
               {"eta_min", &o.eta_min, "the rate at a period's end"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) {
       return optim::cosine_annealing_warm_restarts(o.t_0, o.t_mult, o.eta_min);
     }},
    {"one_cycle_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"total_steps", &o.total_steps, "null: to the end of the run"},
               {"pct_start", &o.one_cycle.pct_start, "the share of the steps that go up"},
               {"anneal_strategy", &o.one_cycle.anneal_strategy, "cos or linear"},
               {"div_factor", &o.one_cycle.div_factor, "starts at the rate divided by this"},
               {"final_div_factor", &o.one_cycle.final_div_factor, "ends at the start divided by this"},
               {"three_phase", &o.one_cycle.three_phase, "down as it came up, then to the end"},
               {"cycle_momentum", &o.one_cycle.cycle_momentum, "momentum goes the other way"},
               {"base_momentum", &o.one_cycle.base_momentum, "its lowest"},
               {"max_momentum", &o.one_cycle.max_momentum, "its highest"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) { return optim::one_cycle_lr(all, o.one_cycle); }},
    {"cyclic_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"max_lr", &o.max_lr, "up to this rate, from the optimizer's"},
               {"step_size_up", &o.step_size_up, "steps that go up"},
               {"step_size_down", &o.step_size_down, "null: as many go down"},
               {"mode", &o.cyclic.mode, "triangular, triangular2 or exp_range"},
               {"gamma", &o.cyclic.gamma, "of exp_range"},
               {"cycle_momentum", &o.cyclic.cycle_momentum, "momentum goes the other way"},
               {"base_momentum", &o.cyclic.base_momentum, "its lowest"},
               {"max_momentum", &o.cyclic.max_momentum, "its highest"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) {
       optim::CyclicOptions options = o.cyclic;
       options.step_size_up = o.step_size_up;
       if (o.step_size_down) options.step_size_down = *o.step_size_down;
       return optim::cyclic_lr(o.max_lr, options);
     }},
    {"warmup_cosine",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"warmup", &o.warmup, "steps that go up"},
               {"total_steps", &o.total_steps, "null: to the end of the run"},
               {"min_factor", &o.min_factor, "of the rate, in the end"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) {
       return optim::warmup_cosine(o.warmup, all, o.min_factor);
     }},
    {"cosine_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"total_steps", &o.total_steps, "null: to the end of the run"},
               {"warmup", &o.warmup, "steps that go up"},
               {"cooldown", &o.cooldown, "the last steps, at the minimum"},
               {"min_lr", &o.cosine.min_lr, "the rate in the end"},
               {"min_lr_ratio", &o.cosine.min_lr_ratio, "or its share of the optimizer's"},
               {"warmup_starting_lr", &o.cosine.warmup_starting_lr, "the first rate"},
               {"warmup_starting_lr_ratio", &o.cosine.warmup_starting_lr_ratio, "or its share of the optimizer's"},
               {"k_decay", &o.cosine.k_decay, "more stays high for longer"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) {
       optim::CosineOptions options = o.cosine;
       options.warmup = o.warmup;
       options.cooldown = o.cooldown;
       return optim::cosine_lr(all, options);
     }},
    {"wsd_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"total_steps", &o.total_steps, "null: to the end of the run"},
               {"warmup", &o.warmup, "steps that go up"},
               {"warmup_starting_lr", &o.wsd.warmup_starting_lr, "the first rate"},
               {"decay_phase_ratio", &o.wsd.decay_phase_ratio, "the share of the steps that go down"},
               {"min_lr_ratio", &o.wsd.min_lr_ratio, "what is left of the rate in the end"},
               {"inverse", &o.wsd.inverse, "1 / rate goes down in a line instead of by a square root"},
               {"num_checkpoints", &o.wsd.num_checkpoints, "periods, each of which ends with a decay"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) {
       optim::WSDOptions options = o.wsd;
       options.warmup = o.warmup;
       return optim::wsd_lr(all, options);
     }},
    {plateau,
     [](ScheduleOptions& o) -> OptionTable {
       return {{"monitor", &o.monitor, "lowers the rate when this metric stops getting better"},
               {"mode", &o.plateau.mode, "min: less is better; or max"},
               {"factor", &o.plateau.factor, "of the rate"},
               {"patience", &o.plateau.patience, "looks without an improvement that are let pass"},
               {"threshold", &o.plateau.threshold, "by how much it must be better than the best"},
               {"threshold_mode", &o.plateau.threshold_mode, "rel: a share of the best; or abs"},
               {"cooldown", &o.plateau.cooldown, "looks after a reduction that are not counted"},
               {"min_lr", &o.plateau.min_lr, "of all groups, or of each"},
               {"eps", &o.plateau.eps, "smaller reductions are not made"}};
     },
     [](const ScheduleOptions&, const optim::Steps&) { return optim::Schedule(); }},
};
constexpr std::string_view optimizers = "SGD, Adam or AdamW";

std::string scheduler_names() {
  std::string names;
  for (const Scheduler& each : schedulers) names += (names.empty() ? "" : ", ") + std::string(each.name);
  return names;
}

const Scheduler& scheduler_of(std::string_view name) {
  const auto* found = std::find_if(std::begin(schedulers), std::end(schedulers),
                                   [&](const Scheduler& each) { return each.name == name; });
  check<ConfigError>(found != std::end(schedulers), "lr_scheduler: expected one of {}; got \"{}\"", scheduler_names(),
                     name);
  return *found;
}

void add(OptionTable& table, OptionTable more) {
  for (Option& option : more) table.push_back(std::move(option));
}

// Those of Adam and of AdamW have the same names.
template <class O>
OptionTable adam_table(O& o) {
  return {{"lr", &o.lr, "learning rate"},
          {"beta1", &o.beta1, "of the mean of gradients"},
          {"beta2", &o.beta2, "of the mean of their squares"},
          {"eps", &o.eps, "added to the denominator"},
          {"weight_decay", &o.weight_decay, "0: none"},
          {"maximize", &o.maximize, "up instead of down"}};
}

}  // namespace

Learning::Learning(const std::vector<Setting>& settings) {
  const OptionTable names{{"optimizer.name", &optimizer_}, {"lr_scheduler.name", &scheduler_}};
  for (const Option& option : names) {
    const std::string section = option.name.substr(0, option.name.find('.'));
    std::string& name = *std::get<std::string*>(option.field);
    for (const Setting& setting : settings)
      if (setting.name == option.name) set_options(names, {&setting, 1});
    for (const Setting& setting : settings)
      check<ConfigError>(!name.empty() || setting.name == option.name || !setting.name.starts_with(section + "."),
                         "{}: expected a name too: --{} {}", setting.source, section,
                         section == "optimizer" ? std::string(optimizers) : scheduler_names());
  }
  check<ConfigError>(optimizer_.empty() || optimizer_ == "SGD" || optimizer_ == "Adam" || optimizer_ == "AdamW",
                     "optimizer: expected {}, got \"{}\"", optimizers, optimizer_);
  if (!scheduler_.empty()) scheduler_of(scheduler_);
}

OptionTable Learning::table() {
  OptionTable table{{"optimizer.name", &optimizer_, format("{}; empty: the module's own", optimizers)}};
  if (optimizer_ == "SGD")
    add(table, in_section("optimizer", {{"lr", &sgd_.lr, "learning rate"},
                                        {"momentum", &sgd_.momentum, "0: none"},
                                        {"dampening", &sgd_.dampening, "of the momentum"},
                                        {"weight_decay", &sgd_.weight_decay, "0: none"},
                                        {"nesterov", &sgd_.nesterov, "needs momentum and no dampening"},
                                        {"maximize", &sgd_.maximize, "up instead of down"}}));
  if (optimizer_ == "Adam") add(table, in_section("optimizer", adam_table(adam_)));
  if (optimizer_ == "AdamW") add(table, in_section("optimizer", adam_table(adamw_)));
  table.push_back({"lr_scheduler.name", &scheduler_, format("{}; empty: the rate stays", scheduler_names())});
  if (scheduler_.empty()) return table;
  add(table, in_section("lr_scheduler", scheduler_of(scheduler_).table(schedule_)));
  table.push_back({"lr_scheduler.interval", &schedule_.interval, "of its steps: epoch or step"});
  table.push_back({"lr_scheduler.frequency", &schedule_.frequency, "it moves every so many of them"});
  return table;
}

OptimizerConfig Learning::make(std::vector<NamedTensor> parameters, const std::function<OptimizerConfig()>& own) const {
  const auto& o = schedule_;
  check<ConfigError>(o.interval == "epoch" || o.interval == "step",
                     "lr_scheduler.interval: expected epoch or step, got \"{}\"", o.interval);
  OptimizerEntry entry;
  if (has_optimizer()) {
    entry.optimizer = optimizer(std::move(parameters));
  } else {
    const OptimizerConfig config = own();
    check<ConfigError>(config.entries().size() == 1,
                       "lr_scheduler: expected one optimizer in the module, or --optimizer; it has {}",
                       config.entries().size());
    entry = {.optimizer = config.entries()[0].optimizer, .name = config.entries()[0].name};
  }
  if (scheduler_.empty()) return {entry};
  const bool by_step = o.interval == "step";
  entry.interval = by_step ? Interval::step : Interval::epoch;
  entry.frequency = o.frequency;
  const optim::Steps whole = by_step ? optim::total_steps : optim::num_epochs;
  entry.schedule = scheduler_of(scheduler_).make(o, o.total_steps ? optim::Steps(*o.total_steps) : whole);
  if (scheduler_ == plateau) {
    entry.plateau = o.plateau;
    entry.monitor = o.monitor;
  }
  return {entry};
}

Shared<optim::Optimizer> Learning::optimizer(std::vector<NamedTensor> parameters) const {
  if (optimizer_ == "SGD") return optim::SGD(std::move(parameters), sgd_);
  if (optimizer_ == "Adam") return optim::Adam(std::move(parameters), adam_);
  return optim::AdamW(std::move(parameters), adamw_);
}

}  // namespace cli
}  // namespace v0
}  // namespace anneal
