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

constexpr Scheduler schedulers[] = {
    {"step_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"step_size", &o.step_size, "moves after so many steps"}, {"gamma", &o.gamma, "by this factor"}};
     },
     [](const ScheduleOptions& o, const optim::Steps&) { return optim::step_lr(o.step_size, o.gamma); }},
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
    {"one_cycle_lr",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"total_steps", &o.total_steps, "null: to the end of the run"},
               {"pct_start", &o.one_cycle.pct_start, "the share of the steps that go up"},
               {"anneal_strategy", &o.one_cycle.anneal_strategy, "cos or linear"},
               {"div_factor", &o.one_cycle.div_factor, "starts at the rate divided by this"},
               {"final_div_factor", &o.one_cycle.final_div_factor, "ends at the start divided by this"},
               {"three_phase", &o.one_cycle.three_phase, "down as it came up, then to the end"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) { return optim::one_cycle_lr(all, o.one_cycle); }},
    {"warmup_cosine",
     [](ScheduleOptions& o) -> OptionTable {
       return {{"warmup", &o.warmup, "steps that go up"},
               {"total_steps", &o.total_steps, "null: to the end of the run"},
               {"min_factor", &o.min_factor, "of the rate, in the end"}};
     },
     [](const ScheduleOptions& o, const optim::Steps& all) {
       return optim::warmup_cosine(o.warmup, all, o.min_factor);
     }},
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
  check<ConfigError>(scheduler_.empty() || !optimizer_.empty(),
                     "lr_scheduler: expected an optimizer beside it (--optimizer {}), got {} alone", optimizers,
                     scheduler_);
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

OptimizerConfig Learning::make(std::vector<NamedTensor> parameters) const {
  check<ConfigError>(schedule_.interval == "epoch" || schedule_.interval == "step",
                     "lr_scheduler.interval: expected epoch or step, got \"{}\"", schedule_.interval);
  const Interval interval = schedule_.interval == "step" ? Interval::step : Interval::epoch;
  const auto with = [&](auto optimizer) {
    return OptimizerConfig(std::move(optimizer), schedule(), interval, schedule_.frequency);
  };
  if (optimizer_ == "SGD") return with(optim::SGD(std::move(parameters), sgd_));
  if (optimizer_ == "Adam") return with(optim::Adam(std::move(parameters), adam_));
  return with(optim::AdamW(std::move(parameters), adamw_));
}

optim::Schedule Learning::schedule() const {
  if (scheduler_.empty()) return {};
  const optim::Steps whole = schedule_.interval == "step" ? optim::total_steps : optim::num_epochs;
  return scheduler_of(scheduler_).make(schedule_, schedule_.total_steps ? optim::Steps(*schedule_.total_steps) : whole);
}

}  // namespace cli
}  // namespace v0
}  // namespace anneal
