#include "anneal/trainer/finetuning.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "anneal/nn/norm.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

using Names = std::vector<std::string>;
constexpr const char* backbone_name = "backbone";

bool has(const std::vector<NamedTensor>& list, const Tensor& tensor) {
  return std::ranges::any_of(list, [&](const NamedTensor& p) { return p.tensor.same(tensor); });
}
bool has(const optim::Optimizer& optimizer, const Tensor& parameter) {
  for (std::size_t g = 0; g < optimizer.groups(); ++g)
    if (has(optimizer.parameters(g), parameter)) return true;
  return false;
}

std::string group_key(std::size_t optimizer, std::size_t group) { return format("group.{}.{}", optimizer, group); }

nn::Module& backbone_of(TrainingModule& module) {
  nn::Module* found = nullptr;
  module.for_each_child([&](const std::string& name, nn::Module& child) {
    if (name == backbone_name) found = &child;
  });
  check<ConfigError>(found, "BackboneFinetuning: expected a child {} of the module ({}), there is none", backbone_name,
                     module.type_name());
  return *found;
}

double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

}  // namespace

bool BaseFinetuning::unfreeze_and_add_param_group(TrainingModule& module, nn::Module& part, optim::Optimizer& optimizer,
                                                  const Unfreezing& how) {
  nn::make_trainable(part, how.train_bn);
  const std::vector<NamedTensor> wanted = nn::filter_params(part, how.train_bn);
  std::vector<NamedTensor> added;  // by the names that the whole module gives them
  bool skipped = false;
  for (NamedTensor& p : module.parameters()) {
    if (!has(wanted, p.tensor)) continue;
    if (has(optimizer, p.tensor)) skipped = true;
    else added.push_back(std::move(p));
  }
  if (skipped)
    module.trainer().console().warn(
        "finetuning: parameters that the optimizer has already stay in their group; give it nn::filter_params(*this) "
        "in configure_optimizers");
  if (added.empty()) {
    optimizer.rebuild();  // those it has may have been frozen
    return false;
  }
  kernels::OptimGroup numbers = optimizer.numbers(0);
  numbers.lr = how.lr ? *how.lr : numbers.lr / how.initial_denom_lr;
  optimizer.add_param_group(std::move(added), numbers);
  return true;
}

void BaseFinetuning::setup(Trainer&, TrainingModule& module, Stage stage) {
  if (stage != Stage::fit) return;
  resumed_.reset();
  freeze_before_training(module);
}

void BaseFinetuning::on_fit_start(Trainer& trainer, TrainingModule& module) {
  const std::vector<optim::Optimizer*> optimizers = trainer.optimizers();
  own_groups_.clear();
  for (const optim::Optimizer* optimizer : optimizers) own_groups_.push_back(optimizer->groups());
  if (resumed_) restore(module, optimizers);
}

void BaseFinetuning::on_train_epoch_start(Trainer& trainer, TrainingModule& module) {
  for (optim::Optimizer* optimizer : trainer.optimizers())
    finetune_function(module, trainer.current_epoch(), *optimizer);
}

void BaseFinetuning::on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) {
  StateMap& state = checkpoint.callbacks[state_key()];
  Names frozen, still;
  for (const NamedTensor& p : nn::filter_params(module, true, false)) frozen.push_back(p.name);
  for (const auto& [name, norm] : nn::batch_norms(module))
    if (!norm->track_running_stats()) still.push_back(name);
  state["frozen"] = std::move(frozen);
  state["still"] = std::move(still);
  const std::vector<optim::Optimizer*> optimizers = trainer.optimizers();
  for (std::size_t i = 0; i < optimizers.size(); ++i)
    for (std::size_t g = own_groups_[i]; g < optimizers[i]->groups(); ++g) {
      Names names;
      for (const NamedTensor& p : optimizers[i]->parameters(g)) names.push_back(p.name);
      state[group_key(i, g)] = std::move(names);
    }
}

// As it was when the checkpoint was written; the groups' numbers come with the optimizer's state.
void BaseFinetuning::restore(TrainingModule& module, const std::vector<optim::Optimizer*>& optimizers) const {
  const auto names = [&](const std::string& key) { return std::get<Names>(resumed_->at(key)); };
  const auto contains = [](const Names& list, const std::string& name) {
    return std::ranges::find(list, name) != list.end();
  };
  const Names frozen = names("frozen"), still = names("still");
  std::map<std::string, Tensor> parameters;
  for (NamedTensor& p : module.parameters()) {
    if (is_floating(p.tensor.dtype())) p.tensor.set_requires_grad(!contains(frozen, p.name));
    parameters.emplace(p.name, p.tensor);
  }
  for (const auto& [name, norm] : nn::batch_norms(module)) norm->set_track_running_stats(!contains(still, name));
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    optimizers[i]->rebuild();
    for (std::size_t g = own_groups_[i]; resumed_->contains(group_key(i, g)); ++g) {
      std::vector<NamedTensor> added;
      for (const std::string& name : names(group_key(i, g))) {
        const auto it = parameters.find(name);
        check(it != parameters.end(), "resume: the checkpoint's optimizer has {}, the module has no such parameter",
              name);
        added.push_back({name, it->second});
      }
      optimizers[i]->add_param_group(std::move(added), optimizers[i]->numbers(0));
    }
  }
}

BackboneFinetuning::BackboneFinetuning(BackboneFinetuningOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  check<ConfigError>(o.unfreeze_backbone_at_epoch >= 0, "unfreeze_backbone_at_epoch: expected at least 0, got {}",
                     o.unfreeze_backbone_at_epoch);
  check<ConfigError>(static_cast<bool>(o.lambda), "lambda: expected a function of the epoch, got none");
  check<ConfigError>(o.backbone_initial_ratio_lr >= 0, "backbone_initial_ratio_lr: expected at least 0, got {}",
                     o.backbone_initial_ratio_lr);
  check<ConfigError>(o.backbone_initial_lr.value_or(0) >= 0, "backbone_initial_lr: expected at least 0, got {}",
                     o.backbone_initial_lr.value_or(0));
}

void BackboneFinetuning::freeze_before_training(TrainingModule& module) {
  nn::freeze(backbone_of(module), options_.train_bn);
}

void BackboneFinetuning::finetune_function(TrainingModule& module, std::int64_t epoch, optim::Optimizer& optimizer) {
  const auto& o = options_;
  const double lr = optimizer.lr();
  if (epoch < o.unfreeze_backbone_at_epoch) return;
  if (epoch == o.unfreeze_backbone_at_epoch) {
    unfreeze_and_add_param_group(
        module, backbone_of(module), optimizer,
        {.lr = o.backbone_initial_lr.value_or(lr * o.backbone_initial_ratio_lr), .train_bn = o.train_bn});
  }
  // The backbone's group, unless the module's optimizer had it all before.
  const std::size_t last = optimizer.groups() - 1;
  const std::vector<NamedTensor>& parameters = optimizer.parameters(last);
  if (last == 0 || parameters.empty() || !parameters[0].name.starts_with(std::string(backbone_name) + ".")) return;
  if (epoch > o.unfreeze_backbone_at_epoch) {
    const double next = o.lambda(epoch + 1) * optimizer.lr(last);
    optimizer.set_lr(last, o.should_align ? std::min(next, lr) : next);
  }
  if (o.verbose)
    module.trainer().print(format("epoch {}: the learning rate is {}, the backbone's {}", epoch,
                                  rounded(lr, o.rounding), rounded(optimizer.lr(last), o.rounding)));
}

}  // namespace v0
}  // namespace anneal
