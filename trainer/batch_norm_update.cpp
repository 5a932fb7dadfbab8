#include "anneal/trainer/batch_norm_update.h"

#include <optional>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/nn/norm.h"
#include "anneal/trainer/module_modes.h"

namespace anneal {
inline namespace v0 {
namespace {

// Of several ranks, the mean of what each has seen.
void average_over_ranks(TrainerState& s, const std::vector<nn::BatchNorm*>& norms) {
  if (!s.world) return;
  for (nn::BatchNorm* norm : norms)
    for (Tensor* statistic : {static_cast<Tensor*>(&norm->running_mean), static_cast<Tensor*>(&norm->running_var)}) {
      s.world->group().all_reduce(*statistic, ReduceOp::sum);
      statistic->mul_(1.0 / s.ranks());
    }
}

}  // namespace

void update_batch_norm(TrainerState& s) {
  std::vector<nn::BatchNorm*> norms;
  for (const auto& [name, norm] : nn::batch_norms(*s.module))
    if (norm->running_mean.defined()) norms.push_back(norm);
  if (norms.empty()) return;
  const ModuleModes modes(*s.module);
  const NoGrad no_grad;
  const MetricLog::Mute mute(s.log);
  Generator generator = epoch_generator(s.seed + 0x94d049bb133111eb, s.counters.epoch.completed, 0);
  const GeneratorScope scope(generator);
  std::vector<std::optional<double>> momenta;
  for (nn::BatchNorm* norm : norms) {
    momenta.push_back(norm->momentum());
    norm->set_momentum(std::nullopt);
    norm->reset_running_stats();
  }
  s.module->train();
  BatchIterator it = s.train->begin(s.counters.epoch.completed, 0);
  for (std::int64_t i = 0; i < s.train_batches; ++i) {
    if (i > 0) ++it;
    if (it == std::default_sentinel) break;  // a stream's end
    if (it->empty()) continue;
    s.transfer(*it);
    StepContext step(s.trainer, i, 0, it.samples());
    {
      const Autocast autocast = s.autocast();
      s.module->training_step(*it, step);
    }
    s.call(HookPoint::on_swa_batch, &Callback::on_swa_batch, &TrainingModule::on_swa_batch, *it, step);
  }
  for (std::size_t n = 0; n < norms.size(); ++n) norms[n]->set_momentum(momenta[n]);
  average_over_ranks(s, norms);
}

}  // namespace v0
}  // namespace anneal
