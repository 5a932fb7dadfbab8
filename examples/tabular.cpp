// Regression on a table with a header row: tabular TABLE.csv TARGET, such as california_housing.csv median_house_value.
// Columns of numbers are standardised, with the mean for empty cells; others become one column for each of their texts.
#include <anneal/anneal.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

using namespace anneal;

namespace {

using Column = std::vector<std::string>;

std::map<std::string, Column> read_table(const char* path) {
  std::ifstream file(path);
  if (!file) throw Error(format("{}: cannot be read", path));
  const auto cells = [](const std::string& line) {
    Column result;
    std::istringstream text(line);
    for (std::string cell; std::getline(text, cell, ',');) result.push_back(cell);
    return result;
  };
  std::string line;
  std::getline(file, line);
  const Column names = cells(line);
  std::map<std::string, Column> table;
  while (std::getline(file, line)) {
    Column row = cells(line);
    row.resize(names.size());
    for (std::size_t i = 0; i < names.size(); ++i) table[names[i]].push_back(row[i]);
  }
  return table;
}

// [n, 1] and what it was divided by; or one column for each text.
std::pair<Tensor, double> encode(const Column& column) {
  std::map<std::string, double> texts;
  std::vector<double> values;
  for (const std::string& cell : column) {
    char* end = nullptr;
    values.push_back(cell.empty() ? NAN : std::strtod(cell.c_str(), &end));
    if (!cell.empty() && *end) values.back() = texts.emplace(cell, texts.size()).first->second;
  }
  const Tensor v = tensor(values, {std::ssize(values), 1}, {.dtype = DType::f64});
  const Tensor missing = ne(v, v), known = sum(eq(v, v).to(DType::f64));
  if (const auto n = std::ssize(texts); n > 0)  // one more for empty cells
    return {one_hot(masked_fill(v, missing, static_cast<double>(n)).squeeze(1).to(DType::i64), n + 1).to(DType::f32),
            1};
  const Tensor centred = masked_fill(v - sum(masked_fill(v, missing, 0)) / known, missing, 0);
  const Tensor deviation = sqrt(sum(square(centred)) / known);
  return {(centred / deviation).to(DType::f32), deviation.item()};
}

/// The share of the target's variance that is explained.
struct R2 final : Metric {
  R2() : Metric(4) {}
  void update(const Tensor& guess, const Tensor& y) {
    add(std::vector{static_cast<double>(y.numel()), sum(y).item(), sum(y * y).item(), sum(square(guess - y)).item()});
  }
  using Metric::compute;
  double compute(std::span<const double> s) const override { return 1 - s[3] / (s[2] - s[1] * s[1] / s[0]); }
};

struct Regressor : TrainingModule {
  explicit Regressor(std::int64_t features)
      : net{{this, "net"}, nn::Linear(features, 128), nn::ReLU(), nn::Linear(128, 128),
            nn::ReLU(),    nn::Linear(128, 1)} {}
  nn::Sequential net;
  R2 r2;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = mse_loss(net(batch["x"]), batch["y"]);
    step.log("train_loss", loss, {.prog_bar = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    const Tensor guess = net(batch["x"]);
    r2.update(guess, batch["y"]);
    step.log("val_loss", mse_loss(guess, batch["y"]));
    step.log("val_r2", r2, {.prog_bar = true});
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = 3e-3}), optim::warmup_cosine(100, optim::total_steps), Interval::step};
  }
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw Error("usage: tabular TABLE.csv TARGET");
  const auto table = read_table(argv[1]);
  if (!table.contains(argv[2])) throw Error(format("{}: there is no column {}", argv[1], argv[2]));
  std::vector<Tensor> features;
  for (const auto& [name, column] : table)
    if (name != argv[2]) features.push_back(encode(column).first);
  const Tensor x = cat(features, 1);
  const auto [y, deviation] = encode(table.at(argv[2]));
  manual_seed(1);
  std::vector<std::int64_t> train, val;
  for (const double i : randperm(x.size(0)).to_vector())
    (val.size() * 5 < train.size() + val.size() ? val : train).push_back(static_cast<std::int64_t>(i));
  const TensorDataset samples{{"x", x}, {"y", y}};
  Regressor model(x.size(1));
  Trainer trainer({.max_epochs = 30, .callbacks = {EMAWeightAveraging({.decay = 0.995})}, .seed = 1});
  trainer.fit(model, DataLoader(Subset(samples, train), {.batch_size = 128, .shuffle = true}),
              DataLoader(Subset(samples, val), {.batch_size = 1024}));
  std::printf("error %.4g (root mean square), R2 %.4f, of %zu rows that it has not seen\n",
              std::sqrt(trainer.callback_metrics()["val_loss"]) * deviation, trainer.callback_metrics()["val_r2"],
              val.size());
} catch (const std::exception& error) {
  std::fprintf(stderr, "tabular: %s\n", error.what());
  return 1;
}
