#include "anneal/trainer/model_summary.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

void check_depth(int max_depth) {
  check<ConfigError>(max_depth >= -1, "max_depth: expected at least -1, got {}", max_depth);
}

// All layers are counted, those down to max_depth listed.
void add_layers(const nn::Module& module, const std::string& prefix, int depth, int max_depth, Summary& summary) {
  module.for_each_child([&](const std::string& name, const nn::Module& layer) {
    ++(layer.training() ? summary.layers_in_train_mode : summary.layers_in_eval_mode);
    if (max_depth == -1 || depth <= max_depth)
      summary.layers.push_back({prefix + name, layer.type_name(), layer.numel(), layer.training()});
    add_layers(layer, prefix + name + ".", depth + 1, max_depth, summary);
  });
}

double megabytes(const Tensor& tensor) {
  return static_cast<double>(tensor.numel()) * static_cast<double>(size_of(tensor.dtype())) * 1e-6;
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

}  // namespace

Summary summarize(const nn::Module& module, int max_depth) {
  check_depth(max_depth);
  Summary summary;
  add_layers(module, "", 1, max_depth, summary);
  std::set<const TensorImpl*> of_layers;
  module.for_each_child([&](const std::string&, const nn::Module& layer) {
    for (const NamedTensor& p : layer.parameters()) of_layers.insert(&p.tensor.impl());
  });
  for (const NamedTensor& p : module.parameters()) {
    const std::int64_t n = p.tensor.numel();
    (p.tensor.requires_grad() ? summary.trainable : summary.non_trainable) += n;
    if (!of_layers.contains(&p.tensor.impl())) summary.other_parameters += n;
    summary.megabytes += megabytes(p.tensor);
  }
  for (const NamedTensor& buffer : module.buffers()) summary.megabytes += megabytes(buffer.tensor);
  return summary;
}

std::string short_count(std::int64_t count) {
  constexpr std::array units{"", " K", " M", " B", " T"};
  auto value = static_cast<double>(count);
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1000;
  char text[32];
  if (unit > 0 && value < 100) std::snprintf(text, sizeof text, "%.1f%s", value, units[unit]);
  else std::snprintf(text, sizeof text, "%lld%s", static_cast<long long>(value), units[unit]);
  return text;
}

std::string Summary::text() const {
  using Row = std::array<std::string, 5>;
  std::vector<Row> rows{{"", "Name", "Type", "Params", "Mode"}};
  for (const Layer& layer : layers)
    rows.push_back({std::to_string(rows.size() - 1), layer.name, layer.type, short_count(layer.parameters),
                    layer.training ? "train" : "eval"});
  if (!layers.empty() && other_parameters > 0)
    rows.push_back({"", "other params", "", short_count(other_parameters), ""});
  std::array<std::size_t, 5> width{};
  for (const Row& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());

  std::vector<std::string> lines;
  for (const Row& row : rows) {
    std::string line = padded(row[0], width[0]);
    for (std::size_t i = 1; i < row.size(); ++i) line += " | " + padded(row[i], width[i]);
    lines.push_back(line.substr(0, line.find_last_not_of(' ') + 1));
  }
  std::size_t widest = 0;
  for (const std::string& line : lines) widest = std::max(widest, line.size());
  const std::string rule(widest, '-');
  lines.insert(lines.begin() + 1, rule);
  lines.push_back(rule);
  char size[32];
  std::snprintf(size, sizeof size, "%.3f", megabytes);
  const auto total = [&](const std::string& value, const char* what) { lines.push_back(padded(value, 10) + what); };
  total(short_count(trainable), "trainable params");
  total(short_count(non_trainable), "non-trainable params");
  total(short_count(parameters()), "params");
  total(size, "MB of params and buffers");
  total(std::to_string(layers_in_train_mode), "layers in train mode");
  total(std::to_string(layers_in_eval_mode), "layers in eval mode");

  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

ModelSummary::ModelSummary(ModelSummaryOptions options) : options_(options) { check_depth(options.max_depth); }

void ModelSummary::on_fit_start(Trainer& trainer, TrainingModule& module) {
  if (options_.max_depth != 0) trainer.print(summarize(module, options_.max_depth).text());
}

}  // namespace v0
}  // namespace anneal
