#include "anneal/trainer/model_summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "anneal/core/autograd.h"
#include "anneal/core/op_observer.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/module_modes.h"
#include "anneal/trainer/precision.h"
#include "anneal/trainer/text_table.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

void check_depth(int max_depth) {
  check<ConfigError>(max_depth >= -1, "max_depth: expected at least -1, got {}", max_depth);
}

// What a forward did in each module that was called.
struct Call {
  double flops = 0;  // outside of the modules that it called
  std::optional<Shape> input, output;
};
class Calls final : public nn::ModuleObserver {
 public:
  void enter(const nn::Module& module, const Tensor& x) override {
    attribute();
    running_.push_back(&module);
    Call& call = calls_[&module];
    if (!call.input) call.input = x.shape();
  }
  void leave(const nn::Module& module, const Tensor& y) override {
    attribute();
    running_.pop_back();
    Call& call = calls_[&module];
    if (!call.output) call.output = y.shape();
  }
  Call of(const nn::Module& module) const {
    const auto at = calls_.find(&module);
    return at == calls_.end() ? Call() : at->second;
  }
  FlopCounter& counter() { return counter_; }

 private:
  // What was counted since the last time is the innermost module's.
  void attribute() {
    if (!running_.empty()) calls_[running_.back()].flops += counter_.flops() - attributed_;
    attributed_ = counter_.flops();
  }

  std::map<const nn::Module*, Call> calls_;
  std::vector<const nn::Module*> running_;
  FlopCounter counter_;
  double attributed_ = 0;
};

// All layers are counted, those down to max_depth listed. Returns the FLOPs of the module and what is in it.
double add_layers(const nn::Module& module, const Calls* calls, const std::string& prefix, int depth, int max_depth,
                  Summary& summary) {
  double flops = calls ? calls->of(module).flops : 0;
  module.for_each_child([&](const std::string& name, const nn::Module& layer) {
    ++(layer.training() ? summary.layers_in_train_mode : summary.layers_in_eval_mode);
    const std::size_t row = summary.layers.size();
    const bool listed = max_depth == -1 || depth <= max_depth;
    if (listed) {
      const Call call = calls ? calls->of(layer) : Call();
      summary.layers.push_back(
          {prefix + name, layer.type_name(), layer.numel(), layer.training(), 0, call.input, call.output});
    }
    const double of_layer = add_layers(layer, calls, prefix + name + ".", depth + 1, max_depth, summary);
    if (listed) summary.layers[row].flops = of_layer;
    flops += of_layer;
  });
  return flops;
}

double megabytes(const Tensor& tensor) {
  return static_cast<double>(tensor.numel()) * static_cast<double>(size_of(tensor.dtype())) * 1e-6;
}

Summary summary_of(const nn::Module& module, const Calls* calls, int max_depth) {
  Summary summary;
  add_layers(module, calls, "", 1, max_depth, summary);
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

}  // namespace

Summary summarize(const nn::Module& module, int max_depth) {
  check_depth(max_depth);
  return summary_of(module, nullptr, max_depth);
}

Summary summarize(nn::Module& module, const Tensor& example, int max_depth) {
  check_depth(max_depth);
  Calls calls;
  {
    const ModuleModes modes(module);
    module.eval();
    const NoGrad no_grad;
    Generator generator(0);
    const GeneratorScope own(generator);
    calls.counter().observe(true);
    module(example);
    calls.counter().observe(false);
  }
  Summary summary = summary_of(module, &calls, max_depth);
  summary.flops = calls.counter().flops();
  return summary;
}

std::string short_count(std::int64_t count) {
  constexpr std::array units{"", " K", " M", " B", " T"};
  auto value = static_cast<double>(count);
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1000;
  return fixed(unit > 0 && value < 100 ? value : std::floor(value), unit > 0 && value < 100 ? 1 : 0) + units[unit];
}

std::string Summary::text(bool ruled) const {
  const auto shape = [](const std::optional<Shape>& s) { return s ? format("{}", *s) : "?"; };
  const auto count = [](double n) { return short_count(static_cast<std::int64_t>(n)); };
  std::vector<std::vector<std::string>> rows{{"", "Name", "Type", "Params", "Mode"}};
  if (flops) rows[0].insert(rows[0].end(), {"FLOPs", "In sizes", "Out sizes"});
  for (const Layer& layer : layers) {
    rows.push_back({std::to_string(rows.size() - 1), layer.name, layer.type, short_count(layer.parameters),
                    layer.training ? "train" : "eval"});
    if (flops) rows.back().insert(rows.back().end(), {count(layer.flops), shape(layer.input), shape(layer.output)});
  }
  if (!layers.empty() && other_parameters > 0)
    rows.push_back({"", "other params", "", short_count(other_parameters), ""});
  std::string text = ruled ? ruled_table(rows) : text_table(rows);
  const auto total = [&](std::string value, const char* what) {
    value.resize(std::max<std::size_t>(value.size(), 10), ' ');
    text += '\n' + value + what;
  };
  total(short_count(trainable), "trainable params");
  total(short_count(non_trainable), "non-trainable params");
  total(short_count(parameters()), "params");
  total(fixed(megabytes, 3), "MB of params and buffers");
  total(std::to_string(layers_in_train_mode), "layers in train mode");
  total(std::to_string(layers_in_eval_mode), "layers in eval mode");
  if (flops) total(count(*flops), "FLOPs of a forward");
  return text;
}

ModelSummary::ModelSummary(ModelSummaryOptions options) : options_(options) { check_depth(options.max_depth); }

void ModelSummary::setup(Trainer&, TrainingModule&, Stage) { resumed_ = false; }
void ModelSummary::on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint&) { resumed_ = true; }
void ModelSummary::on_fit_start(Trainer& trainer, TrainingModule& module) {
  if (options_.max_depth == 0 || resumed_) return;
  const Tensor example = module.example_input();
  if (!example.defined()) return trainer.print(text(summarize(module, options_.max_depth), trainer));
  const Precision precision = Precision::parse(trainer.options().precision);
  Batch input{{"x", example.to(trainer.device())}};
  precision.cast(input);
  const Autocast autocast(precision.autocast);
  trainer.print(text(summarize(module, input["x"], options_.max_depth), trainer));
}

std::string ModelSummary::text(const Summary& summary, Trainer&) const { return summary.text(); }
std::string RichModelSummary::text(const Summary& summary, Trainer& trainer) const {
  return summary.text(trainer.console().is_rich());
}

}  // namespace v0
}  // namespace anneal
