// What a checkpoint's file says besides its tensors, as JSON. Not for users.
#pragma once

#include <map>
#include <string>

#include "anneal/trainer/checkpoint.h"

namespace anneal {
inline namespace v0 {

/// Of the file's tensors, by their names.
using Checksums = std::map<std::string, std::string>;

/// Throws Error for a state that is not UTF-8.
std::string to_metadata(const Checkpoint& checkpoint, const Checksums& checksums);
/// The checksums; the rest goes into the checkpoint, with sections and optimizers that have no tensors yet. Throws
/// Error for anything else than what `to_metadata` gives.
Checksums read_metadata(const std::string& text, Checkpoint& checkpoint);

}  // namespace v0
}  // namespace anneal
