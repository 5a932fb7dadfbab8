// How checkpoint files are named. Private.
#pragma once

#include <string>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

/// `pattern` with {epoch}, {step} and {metric}, or {metric:.2f}, replaced by "key=value", or by the value alone. Throws
/// ConfigError for a metric that is not there and for a format that is none.
std::string checkpoint_name(const std::string& pattern, bool insert_names, const Trainer& trainer);

}  // namespace v0
}  // namespace anneal
