// Times steps through the Trainer beside the same steps by hand, in rounds that another program calls for: each line on
// standard input is a case and a loop; for each a line goes out with the microseconds of a step, from the start of the
// first batch of an epoch to the end of its last.
//
// hand: DataLoader, forward, backward, AdamW, zero_grad. trainer: with its default callbacks but no progress bar.
// ema: the same with EMAWeightAveraging. everything: with a bar, three loggers and all callbacks that only watch.
//
// Usage: bench_trainer [--threads N] [--seconds S] FOLDER_FOR_LOGS, then lines such as "mlp_b1 trainer".
#include <anneal/anneal.h>
#include <anneal/bench/models.h>
#include <anneal/kernels/parallel.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

using namespace anneal;

namespace {

using Clock = std::chrono::steady_clock;

struct Workload {
  std::string name;
  std::int64_t batch;
  std::function<std::unique_ptr<nn::Module>()> model;
  std::function<TensorDataset(std::int64_t)> data;  // of so many samples
};

TensorDataset images(std::int64_t n) { return {{"x", randn({n, 1, 28, 28})}, {"y", randint(0, 10, {n})}}; }
TensorDataset tokens(std::int64_t n) { return {{"x", randint(0, 65, {n, 64})}, {"y", randint(0, 65, {n, 64})}}; }
template <class Model>
auto made(Model (*make)()) {
  return [make] { return std::make_unique<Model>(make()); };
}

const Workload workloads[] = {
    {"mlp_b1", 1, made(+[] { return bench::mlp(64); }), images},
    {"lenet_b64", 64, made(+[] { return bench::lenet(); }), images},
    {"gpt_tiny", 12,
     made(+[] { return bench::Gpt({.vocabulary = 65, .context = 64, .layers = 4, .heads = 4, .width = 128}); }),
     tokens},
};

struct Model : TrainingModule {
  explicit Model(std::unique_ptr<nn::Module> made) : net(std::move(made)) { adopt("net", *net); }
  std::unique_ptr<nn::Module> net;
  Clock::time_point start, end;

  Tensor loss_of(const Batch& batch) const {
    return cross_entropy((*net)(batch["x"]).flatten(0, -2), batch["y"].flatten());
  }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = loss_of(batch);
    step.log("train_loss", loss, {.prog_bar = true});
    return loss;
  }
  OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters())}; }
  void on_train_batch_start(const Batch&, StepContext& step) override {
    if (step.batch_idx() == 0) start = Clock::now();
  }
  void on_train_batch_end(const Tensor&, const Batch&, StepContext& step) override {
    if (step.trainer().is_last_batch()) end = Clock::now();
  }
};

double microseconds(Clock::duration time, std::int64_t steps) {
  return std::chrono::duration<double, std::micro>(time).count() / static_cast<double>(steps);
}

double by_hand(Model& model, DataLoader loader) {
  optim::AdamW optimizer(model.parameters());
  const auto start = Clock::now();
  for (const Batch& batch : loader) {
    model.loss_of(batch).backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  return microseconds(Clock::now() - start, loader.size());
}

TrainerOptions options_of(const std::string& loop, const std::filesystem::path& folder) {
  TrainerOptions o{.max_epochs = 1,
                   .enable_progress_bar = loop == "everything",
                   .default_root_dir = folder,
                   .seed = 1,
                   .sink = [](std::string_view) {}};
  if (loop == "ema") o.callbacks = {EMAWeightAveraging()};
  if (loop == "everything") {
    o.logger = {CsvLogger({.save_dir = folder}), TensorBoardLogger({.save_dir = folder}),
                JsonLogger({.save_dir = folder})};
    o.callbacks = {LearningRateMonitor(), SpikeDetection({.warmup = 1'000'000'000}), ModelSummary(), Timer(),
                   EarlyStopping({.monitor = "train_loss", .patience = 1'000'000'000})};
  } else if (loop != "trainer" && loop != "ema") {
    throw Error("no loop " + loop);
  }
  return o;
}

double through_trainer(Model& model, const DataLoader& loader, const std::string& loop,
                       const std::filesystem::path& folder) {
  std::filesystem::remove_all(folder);
  Trainer trainer(options_of(loop, folder));
  trainer.fit(model, loader);
  return microseconds(model.end - model.start, loader.size());
}

}  // namespace

int main(int argc, char** argv) try {
  double seconds = 0.5;
  std::filesystem::path folder;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--threads" && i + 1 < argc) set_num_threads(std::stoi(argv[++i]));
    else if (word == "--seconds" && i + 1 < argc) seconds = std::stod(argv[++i]);
    else folder = word;
  }
  if (folder.empty()) throw Error("expected a folder");
  std::map<std::string, std::int64_t> steps;  // that take about `seconds`
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name, loop;
    words >> name >> loop;
    const auto workload = std::ranges::find(workloads, name, &Workload::name);
    if (workload == std::end(workloads)) throw Error("no case " + line);
    manual_seed(0);
    const auto loader_of = [&](std::int64_t n) {
      return DataLoader(workload->data(n * workload->batch), {.batch_size = workload->batch});
    };
    Model model(workload->model());
    if (!steps.contains(name)) {
      const double us = by_hand(model, loader_of(20));
      steps[name] = std::max<std::int64_t>(20, static_cast<std::int64_t>(seconds * 1e6 / us));
    }
    const DataLoader loader = loader_of(steps[name]);
    by_hand(model, loader_of(3));  // memory is there before time counts
    const double us = loop == "hand" ? by_hand(model, loader) : through_trainer(model, loader, loop, folder);
    std::cout << us << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << "bench_trainer: " << error.what() << '\n';
  return 1;
}
