#include "anneal/trainer/cli.h"

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace cli {
namespace {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  check<ConfigError>(in.is_open(), "config: {} cannot be read", path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

// What is short for another option.
void expand(Setting& setting) {
  if (setting.name == "seed") setting.name = "trainer.seed";
  if (setting.name == "optimizer" || setting.name == "lr_scheduler") setting.name += ".name";
}

bool is_of_the_command(const Option& option) { return option.name == "ckpt_path" || option.name == "overwrite"; }

class ConfigWriter final : public Callback {
 public:
  ConfigWriter(const OptionTable& table, const bool& overwrite) : table_(&table), overwrite_(&overwrite) {}

  void setup(Trainer& trainer, TrainingModule&, Stage) override {
    if (trainer.options().fast_dev_run > 0 || trainer.options().barebones) return;
    const fs::path file = trainer.log_dir() / "config.json";
    const std::string text = config_text(*table_);
    check<ConfigError>(*overwrite_ || !fs::exists(file) || read_file(file) == text,
                       "overwrite: {} is there and says something else; expected --overwrite, or another folder",
                       file.string());
    replace_file(file, text);
  }
  bool rank_zero_only() const override { return true; }

 private:
  const OptionTable* table_;
  const bool* overwrite_;
};

}  // namespace

Arguments read_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  std::vector<Setting> typed;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") {
      arguments.help = true;
    } else if (word == "--print_config") {
      arguments.print_config = true;
    } else if (word.starts_with("--")) {
      Setting setting = read_argument(argc, argv, i);
      if (setting.name != "config") {
        typed.push_back(std::move(setting));
        continue;
      }
      for (Setting& of_file : read_settings(read_file(setting.value), setting.value, true))
        arguments.settings.push_back(std::move(of_file));
    } else {
      check<ConfigError>(
          arguments.command.empty() && (word == "fit" || word == "validate" || word == "test" || word == "predict"),
          "command: expected one of fit, validate, test and predict, got \"{}\"", word);
      arguments.command = word;
    }
  }
  check<ConfigError>(!arguments.command.empty() || arguments.help || arguments.print_config,
                     "command: expected one of fit, validate, test and predict, got none");
  arguments.settings.insert(arguments.settings.end(), typed.begin(), typed.end());
  for (Setting& setting : arguments.settings) expand(setting);
  return arguments;
}

OptionTable Configuration::table(const OptionTable& model, const OptionTable& data) {
  OptionTable all;
  for (const OptionTable& part : {in_section("trainer", table_of(trainer)), in_section("model", model),
                                  in_section("data", data), learning.table()})
    all.insert(all.end(), part.begin(), part.end());
  all.push_back({"ckpt_path", &ckpt_path, "a file, last or best: to resume from, or whose weights are used"});
  all.push_back({"overwrite", &overwrite, "a config.json in the run's folder that says something else"});
  return all;
}

void Configuration::read(const OptionTable& table, const Arguments& arguments) {
  set_options(table, environment_settings(table, "ANNEAL_"));
  set_options(table, arguments.settings);
}

std::string help_text(const OptionTable& table) {
  return "usage: fit|validate|test|predict [options]\n\n"
         "  --config FILE      options as JSON, below the others; may be repeated, the later ones win\n"
         "  --seed N           short for --trainer.seed\n"
         "  --optimizer NAME, --lr_scheduler NAME\n"
         "                     instead of the module's own; with --help: lists their options\n"
         "  --print_config     prints what --config reads, and ends\n\n"
         "Variables such as ANNEAL_TRAINER_MAX_EPOCHS are below all of these.\n\n" +
         describe(table);
}

std::string config_text(const OptionTable& table) {
  OptionTable of_the_run = table;
  std::erase_if(of_the_run, is_of_the_command);
  return to_json(of_the_run) + "\n";
}

Shared<Callback> config_writer(const OptionTable& table, const bool& overwrite) {
  return std::make_shared<ConfigWriter>(table, overwrite);
}

int exit_code(const Program& program, const std::function<int()>& body) {
  const auto fail = [&](const char* what, int code) {
    if (program.err) program.err(what);
    else std::fprintf(stderr, "error: %s\n", what);
    return code;
  };
  try {
    return body();
  } catch (const ConfigError& error) { return fail(error.what(), 2); } catch (const std::exception& error) {
    return fail(error.what(), 1);
  } catch (...) { return fail("an exception of an unknown type", 1); }
}

void print(const Program& program, std::string_view text) {
  if (program.out) program.out(text);
  else std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace cli
}  // namespace v0
}  // namespace anneal
