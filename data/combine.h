// Several loaders side by side.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "anneal/data/data_loader.h"

namespace anneal {
inline namespace v0 {

/// When an epoch of combined loaders ends.
enum class CombineMode : std::uint8_t {
  max_size_cycle,  ///< with the longest; shorter ones start again, in their next epoch's order
  min_size,        ///< with the shortest
  max_size,        ///< with the longest; shorter ones then have no part in a batch
};

/// A loader whose batches are made of one batch of each: the tensor "x" of loader "new" is "new.x", and
/// `batch.part("new")` has all of that loader's. Without names the parts are "0", "1", ... Throws ConfigError for none,
/// for streams and for a name that comes twice.
///
///   trainer.fit(model, combine({{"old", old_data}, {"new", new_data}}), val);
DataLoader combine(std::vector<std::pair<std::string, DataLoader>> loaders,
                   CombineMode mode = CombineMode::max_size_cycle);
DataLoader combine(std::vector<DataLoader> loaders, CombineMode mode = CombineMode::max_size_cycle);

}  // namespace v0
}  // namespace anneal
