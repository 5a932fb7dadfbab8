#include "anneal/trainer/data_module.h"

#include "anneal/core/error.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

DataLoader DataModule::train_dataloader() {
  throw ConfigError("train_dataloader: the DataModule does not override it, and fit needs it");
}

void DataModule::on_before_batch_transfer(TrainingModule& module, Batch& batch) {
  module.on_before_batch_transfer(batch);
}
void DataModule::transfer_batch_to_device(TrainingModule& module, Batch& batch, Device device) {
  module.transfer_batch_to_device(batch, device);
}
void DataModule::on_after_batch_transfer(TrainingModule& module, Batch& batch) {
  module.on_after_batch_transfer(batch);
}

Trainer& DataModule::trainer() const {
  check(trainer_ != nullptr, "trainer: the DataModule is not part of a run");
  return *trainer_;
}

DataLoader DatasetModule::train_dataloader() {
  check<ConfigError>(datasets_.train != nullptr, "train: fit needs a dataset to train on");
  return DataLoader(datasets_.train, {.batch_size = datasets_.batch_size,
                                      .shuffle = true,
                                      .num_workers = datasets_.num_workers,
                                      .seed = datasets_.seed});
}

LoaderSet DatasetModule::loaders(const Shared<const Dataset>& dataset) const {
  if (!dataset) return {};
  return DataLoader(dataset, {.batch_size = datasets_.batch_size, .num_workers = datasets_.num_workers});
}

}  // namespace v0
}  // namespace anneal
