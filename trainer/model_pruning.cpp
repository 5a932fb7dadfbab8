#include "anneal/trainer/model_pruning.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/data/sampler.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr const char* mask_section = "pruning_mask";
constexpr const char* start_section = "pruning_start";

template <class T>
T at(const ByEpoch<T>& value, std::int64_t epoch) {
  const T* fixed = std::get_if<T>(&value);
  return fixed ? *fixed : std::get<1>(value)(epoch);
}

void check_amount(const Amount& amount) {
  check<ConfigError>(amount.value() >= 0 && (amount.is_count() || amount.value() <= 1),
                     "amount: expected a share from 0.0 to 1.0 or a number of weights from 0 on, got {}", amount);
}

Tensor tensor_of(const StateDict& section, const std::string& name) {
  const auto it = std::ranges::find(section, name, &NamedTensor::name);
  return it == section.end() ? Tensor() : it->tensor;
}

std::string share_text(double zeros, double all) { return format("{} of {} ({}%)", zeros, all, 100 * zeros / all); }

}  // namespace

ModelPruning::ModelPruning(ModelPruningOptions options)
    : options_(std::move(options)), rule_(options_.fn, options_.pruning_dim, options_.pruning_norm) {
  check<ConfigError>(!rule_.structured() || !options_.use_global_unstructured,
                     "use_global_unstructured: expected false with {}, which drops slices of each parameter",
                     rule_.name());
  if (const Amount* amount = std::get_if<Amount>(&options_.amount)) check_amount(*amount);
  check<ConfigError>(options_.verbose >= 0 && options_.verbose <= 2, "verbose: expected 0, 1 or 2, got {}",
                     options_.verbose);
}

std::vector<ModelPruning::Pruned> ModelPruning::find(TrainingModule& module) const {
  const auto& o = options_;
  std::vector<Pruned> found;
  std::vector<std::string> missing = o.parameters;
  for (const NamedTensor& p : module.parameters()) {
    if (std::erase(missing, p.name) > 0) {
      check<ConfigError>(rule_.fits(p.tensor), "parameters: {} {} has no slices along pruning_dim", p.name,
                         p.tensor.shape());
      found.push_back({p.name, p.tensor});
    } else if (o.parameters.empty() && rule_.fits(p.tensor)) {
      const std::string last = p.name.substr(p.name.rfind('.') + 1);
      if (std::ranges::find(o.parameter_names, last) != o.parameter_names.end()) found.push_back({p.name, p.tensor});
    }
  }
  check<ConfigError>(missing.empty(), "parameters: the module has no {}", missing.empty() ? "" : missing[0]);
  check<ConfigError>(!found.empty(), "parameter_names: the module has no parameter of these names to prune");
  return found;
}

double ModelPruning::Pruned::zeros() const {
  if (!mask.defined()) return 0;
  const std::vector<double> left = mask.to(Device{}).to_vector();
  const auto dropped = static_cast<double>(std::ranges::count(left, 0.0));
  return dropped * static_cast<double>(parameter.numel()) / static_cast<double>(mask.numel());
}

double ModelPruning::sparsity() const {
  double zeros = 0, all = 0;
  for (const Pruned& p : pruned_) {
    zeros += p.zeros();
    all += static_cast<double>(p.parameter.numel());
  }
  return all > 0 ? zeros / all : 0;
}

void ModelPruning::on_fit_start(Trainer&, TrainingModule& module) {
  StateDict masks = std::exchange(resumed_masks_, {});
  if (masks.empty() && !options_.make_pruning_permanent)
    for (const Pruned& p : pruned_)
      if (p.mask.defined()) masks.push_back({p.name, p.mask});
  pruned_ = find(module);
  take_in(masks, std::exchange(resumed_starts_, {}));
}

// What is known of these parameters, of this run or one before.
void ModelPruning::take_in(const StateDict& masks, const StateDict& starts) {
  const bool* never = std::get_if<bool>(&options_.use_lottery_ticket_hypothesis);
  for (Pruned& p : pruned_) {
    const Tensor mask = tensor_of(masks, p.name), start = tensor_of(starts, p.name);
    if (mask.defined()) {
      const Tensor expected = rule_.new_mask(p.parameter);
      check(mask.shape() == expected.shape(), "resume: the mask of {} is {}, expected {}", p.name, mask.shape(),
            expected.shape());
      p.mask = mask.to(expected.dtype()).to(expected.device());
    }
    if (start.defined()) p.start = start.to(p.parameter.device());
    else if (!never || *never) p.start = p.parameter.detach().clone();
  }
  apply_masks();
}

void ModelPruning::on_train_start(Trainer& trainer, TrainingModule&) { last_step_ = trainer.global_step(); }

void ModelPruning::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  if (std::exchange(last_step_, trainer.global_step()) != trainer.global_step()) apply_masks();
}
void ModelPruning::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (options_.prune_on_train_epoch_end) prune(trainer);
}
void ModelPruning::on_validation_epoch_end(Trainer& trainer, TrainingModule&) {
  if (!options_.prune_on_train_epoch_end && trainer.stage() == Stage::fit) prune(trainer);
}
void ModelPruning::teardown(Trainer&, TrainingModule&, Stage) {
  for (Pruned& p : pruned_) p.start = {};
  resumed_masks_.clear();
  resumed_starts_.clear();
}

void ModelPruning::prune(Trainer& trainer) {
  const std::int64_t epoch = trainer.current_epoch();
  const Amount amount = at(options_.amount, epoch);
  check_amount(amount);
  if (!at(options_.apply_pruning, epoch) || amount.value() == 0) return;
  Generator generator = epoch_generator(trainer.seed() + 0xd6e8feb86659fd93, epoch, trainer.num_checks());
  const NoGrad no_grad;
  std::vector<Tensor> masks, scores;
  std::vector<double> before;
  for (const Pruned& p : pruned_) {
    masks.push_back(p.mask.defined() ? p.mask : rule_.new_mask(p.parameter));
    scores.push_back(rule_.score(p.parameter.detach(), generator));
    before.push_back(p.zeros());
  }
  const double share_before = sparsity();
  const std::size_t together = options_.use_global_unstructured ? masks.size() : 1;
  for (std::size_t i = 0; i < masks.size(); i += together)
    drop_least(std::span(masks).subspan(i, together), std::span(scores).subspan(i, together), amount);
  for (std::size_t i = 0; i < pruned_.size(); ++i) pruned_[i].mask = masks[i];
  if (at(options_.use_lottery_ticket_hypothesis, epoch)) rewind(generator);
  apply_masks();
  if (options_.verbose >= 1)
    trainer.print(format("pruning by {}: {}% of the weights are zero, before {}%", rule_.name(), 100 * sparsity(),
                         100 * share_before));
  for (std::size_t i = 0; options_.verbose == 2 && i < pruned_.size(); ++i)
    trainer.print(format("  {}: {}, before {}", pruned_[i].name,
                         share_text(pruned_[i].zeros(), static_cast<double>(pruned_[i].parameter.numel())), before[i]));
}

void ModelPruning::rewind(Generator& generator) const {
  for (const Pruned& p : pruned_) {
    Tensor start = p.start;
    if (options_.resample_parameters)
      start = index_select(start.reshape({-1}), 0, randperm(start.numel(), generator).to(start.device()));
    p.parameter.detach().copy_(start.reshape(p.parameter.shape()));
  }
}

void ModelPruning::apply_masks() const {
  const NoGrad no_grad;
  for (const Pruned& p : pruned_)
    if (p.mask.defined()) p.parameter.detach().mul_(p.mask);
}

void ModelPruning::on_save_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  for (const Pruned& p : pruned_) {
    if (p.mask.defined()) checkpoint.extra[mask_section].push_back({p.name, p.mask});
    if (p.start.defined()) checkpoint.extra[start_section].push_back({p.name, p.start});
  }
}
void ModelPruning::on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  for (const auto& [section, kept] : {std::pair{mask_section, &resumed_masks_}, {start_section, &resumed_starts_}})
    if (const auto it = checkpoint.extra.find(section); it != checkpoint.extra.end()) *kept = it->second;
}

}  // namespace v0
}  // namespace anneal
