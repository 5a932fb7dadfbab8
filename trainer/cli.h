// A whole program around a Trainer:
//
//   struct Classifier : TrainingModule {
//     struct Options {
//       std::int64_t width = 512;
//       OptionTable table() { return {{"width", &width, "hidden units"}}; }
//     };
//     explicit Classifier(const Options& options);
//     ...
//   };
//   struct Digits : DataModule {  // the same for its options
//     DataLoader train_dataloader() override;
//     LoaderSet val_dataloader() override;
//   };
//   int main(int argc, char** argv) { return cli::run<Classifier, Digits>(argc, argv); }
//
//   program fit --model.width 256 --trainer.max_epochs 5 --optimizer AdamW --optimizer.lr 3e-4
//   program test --config run.json --ckpt_path best.safetensors
#pragma once

#include <concepts>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/trainer/cli_learning.h"
#include "anneal/trainer/option_table.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace cli {

/// What the code says of a program.
struct Program {
  TrainerOptions trainer = {};  ///< defaults, and what no text can say: callbacks, loggers
  std::function<void(Trainer&, TrainingModule&)> before_fit = {}, after_fit = {};
  /// Takes what --help and --print_config print, and what is wrong. Default: stdout, stderr.
  std::function<void(std::string_view)> out = {}, err = {};
};

/// A command line, and the files that it names.
struct Arguments {
  std::string command;            ///< fit, validate, test or predict
  std::vector<Setting> settings;  ///< "model.width" and the like, the later ones win
  bool help = false, print_config = false;
};
/// Throws ConfigError for what is neither a command nor an option with a value.
Arguments read_arguments(int argc, const char* const* argv);

/// All that a command line can say, in one table.
struct Configuration {
  TrainerOptions trainer;
  Learning learning;
  std::string ckpt_path;   ///< to resume from, or whose weights are used
  bool overwrite = false;  ///< a config.json that says something else

  /// Signals are handled unless somebody says otherwise.
  Configuration(TrainerOptions defaults, const Arguments& arguments)
      : trainer(std::move(defaults)), learning(arguments.settings) {
    trainer.handle_signals = true;
  }
  /// With the module's and the data's own.
  OptionTable table(const OptionTable& model, const OptionTable& data);
  /// Fills it from the environment (ANNEAL_TRAINER_MAX_EPOCHS) and the settings.
  void read(const OptionTable& table, const Arguments& arguments);
};

/// What --help prints.
std::string help_text(const OptionTable& table);
/// What --config reads again: all but ckpt_path and overwrite.
std::string config_text(const OptionTable& table);
/// When a run begins, writes that to <log_dir>/config.json, but not in a fast_dev_run or with barebones. Throws
/// ConfigError if there is another one, unless it may `overwrite` that. Both must outlive it.
Shared<Callback> config_writer(const OptionTable& table, const bool& overwrite);
/// The code of `body`; for exceptions, which it prints, 2 if it is a ConfigError and else 1.
int exit_code(const Program& program, const std::function<int()>& body);
void print(const Program& program, std::string_view text);

struct NoOptions {
  OptionTable table() { return {}; }
};
template <class T>
struct OptionsOf {
  using type = NoOptions;
};
template <class T>
requires requires { typename T::Options; }
struct OptionsOf<T> {
  using type = typename T::Options;
};

/// A T from its options, if it has such.
template <class T, class Options, class... First>
T made(const Options& options, const First&... first) {
  if constexpr (std::is_same_v<Options, NoOptions>) return T(first...);
  else return T(first..., options);
}

/// The module with the command line's optimizer, or schedule, instead of its own.
template <class Module>
struct WithLearning final : Module {
  template <class... Args>
  explicit WithLearning(const Learning& learning, const Args&... args) : Module(args...), learning(learning) {}
  OptimizerConfig configure_optimizers() override {
    return learning.make(this->parameters(), [this] { return Module::configure_optimizers(); });
  }
  const Learning& learning;
};

template <class Module>
constexpr bool has_own_optimizer() {
  if constexpr (requires { &Module::configure_optimizers; })
    return !std::is_same_v<decltype(&Module::configure_optimizers), decltype(&TrainingModule::configure_optimizers)>;
  return true;
}

/// The program's exit code: 128 and the signal's number if one ended training.
template <class Module, class Data>
int run_command(const Arguments& arguments, const Configuration& configuration, Trainer& trainer, Module& module,
                Data& data, const Program& program) {
  const std::string& command = arguments.command;
  const std::string& ckpt = configuration.ckpt_path;
  int signal = 0;
  if (command == "fit") {
    if (program.before_fit) program.before_fit(trainer, module);
    signal = trainer.fit(module, data, {.resume = ckpt}).signal;
    if (program.after_fit) program.after_fit(trainer, module);
  } else if (command == "validate") {
    trainer.validate(module, data, {.ckpt = ckpt});
  } else if (command == "test") {
    trainer.test(module, data, {.ckpt = ckpt});
  } else {
    trainer.predict(module, data, {.return_predictions = false, .ckpt = ckpt});
  }
  return signal == 0 ? 0 : 128 + signal;
}

/// Runs a command: fit, validate, test or predict. What is said later wins: the code's defaults, the environment,
/// `--config FILE.json` in order, the other arguments in order. Returns the program's exit code: 0; 2, with a message,
/// for a wrong option; 130 or 143 for SIGINT or SIGTERM; 1 for another failure. `--optimizer` and `--lr_scheduler` take
/// the place of configure_optimizers; a schedule alone is for the optimizer that it makes.
template <std::derived_from<TrainingModule> Module, std::derived_from<DataModule> Data>
int run(int argc, const char* const* argv, const Program& program = {}) {
  return exit_code(program, [&] {
    const Arguments arguments = read_arguments(argc, argv);
    Configuration configuration(program.trainer, arguments);
    typename OptionsOf<Module>::type model_options;
    typename OptionsOf<Data>::type data_options;
    const OptionTable table = configuration.table(model_options.table(), data_options.table());
    if (!arguments.help) configuration.read(table, arguments);
    if (arguments.help || arguments.print_config) {
      print(program, arguments.help ? help_text(table) : config_text(table));
      return 0;
    }

    configuration.trainer.callbacks.push_back(config_writer(table, configuration.overwrite));
    Trainer trainer(configuration.trainer);
    configuration.trainer.seed = trainer.seed();
    manual_seed(trainer.seed());
    Data data = made<Data>(data_options);
    if (!configuration.learning) {
      Module module = made<Module>(model_options);
      return run_command(arguments, configuration, trainer, module, data, program);
    }
    if (has_own_optimizer<Module>())
      trainer.print(format("the {} is that of the command line, not the module's",
                           configuration.learning.has_optimizer() ? "optimizer" : "schedule"));
    auto module = made<WithLearning<Module>>(model_options, configuration.learning);
    return run_command(arguments, configuration, trainer, module, data, program);
  });
}

}  // namespace cli
}  // namespace v0
}  // namespace anneal
