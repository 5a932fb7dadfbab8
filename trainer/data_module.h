// Data together with how it is prepared.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>

#include "anneal/core/state_map.h"
#include "anneal/data/dataset.h"
#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/hparams.h"
#include "anneal/trainer/loader_set.h"
#include "anneal/trainer/shared.h"

namespace anneal {
inline namespace v0 {

class Trainer;
class TrainingModule;
class DatasetModule;

/// What DataModule::from_datasets makes loaders of.
struct Datasets {
  Shared<const Dataset> train = {}, val = {}, test = {}, predict = {};
  std::int64_t batch_size = 1;
  int num_workers = 0;
  std::uint64_t seed = 0;  ///< of the order of `train`, the only one that is shuffled
};

/// Loaders, and how their data comes to be:
///
///   struct Digits : DataModule {
///     void prepare_data() override { download("digits"); }
///     void setup(Stage) override { images = read("digits"); }
///     DataLoader train_dataloader() override { return DataLoader(images, {.batch_size = 64, .shuffle = true}); }
///   };
///   Digits digits;
///   trainer.fit(model, digits);
///
/// In each run: prepare_data, setup, load_state of a resumed run, the loaders that it needs, teardown.
class DataModule {
 public:
  virtual ~DataModule() = default;

  /// Of the datasets that there are.
  static DatasetModule from_datasets(Datasets datasets);

  /// Downloads and the like: once for each Trainer, on one rank of each machine, while the others wait. Keep nothing in
  /// members here: only that rank would have it.
  virtual void prepare_data() {}
  /// Whether before each run.
  virtual bool prepare_every_time() const { return false; }
  /// false: on rank 0 alone, for machines that share their folders; so the module's prepare_data, too.
  virtual bool prepare_data_per_node() const { return true; }
  /// Before each run, on all ranks.
  virtual void setup(Stage) {}
  /// Also after an exception.
  virtual void teardown(Stage) {}
  virtual void on_exception(const std::exception_ptr&) {}

  /// Asked once a run, or as reload_dataloaders_every_n_epochs says. Those that a run needs must be there; in fit that
  /// is the first.
  virtual DataLoader train_dataloader();
  virtual LoaderSet val_dataloader() { return {}; }
  virtual LoaderSet test_dataloader() { return {}; }
  virtual LoaderSet predict_dataloader() { return {}; }

  /// Whether a rank may have no batch where others have some: in fit it takes part in their sums with nothing. Else
  /// ConfigError.
  virtual bool allow_zero_length() const { return false; }

  /// For loggers, checkpoints and load_from_checkpoint.
  virtual HParams hparams() const { return {}; }
  /// What a checkpoint keeps of it.
  virtual StateMap state() const { return {}; }
  virtual void load_state(const StateMap&) {}

  /// Around the way of every batch to the device. By default the module's hooks; an override comes in their place.
  virtual void on_before_batch_transfer(TrainingModule& module, Batch& batch);
  virtual void transfer_batch_to_device(TrainingModule& module, Batch& batch, Device device);
  virtual void on_after_batch_transfer(TrainingModule& module, Batch& batch);

  /// Throws Error outside of a run.
  Trainer& trainer() const;

 private:
  friend struct TrainerState;
  Trainer* trainer_ = nullptr;
  const Trainer* prepared_for_ = nullptr;
};

/// Loaders of datasets.
class DatasetModule final : public DataModule {
 public:
  explicit DatasetModule(Datasets datasets) : datasets_(std::move(datasets)) {}

  DataLoader train_dataloader() override;
  LoaderSet val_dataloader() override { return loaders(datasets_.val); }
  LoaderSet test_dataloader() override { return loaders(datasets_.test); }
  LoaderSet predict_dataloader() override { return loaders(datasets_.predict); }

 private:
  LoaderSet loaders(const Shared<const Dataset>& dataset) const;

  Datasets datasets_;
};

inline DatasetModule DataModule::from_datasets(Datasets datasets) { return DatasetModule(std::move(datasets)); }

}  // namespace v0
}  // namespace anneal
