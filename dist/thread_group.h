// A group whose ranks are threads of one process.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "anneal/dist/process_group.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// Ranks 0 to n - 1, one for each thread. Results are the same bits as those of gloo_group. `abort` on one of them
/// aborts all; a collective fails that makes no progress for `collective_timeout`, or when another rank's group is
/// destroyed.
std::vector<std::shared_ptr<ProcessGroup>> thread_group(
    int n, std::chrono::milliseconds collective_timeout = std::chrono::minutes(10));

}  // namespace dist
}  // namespace v0
}  // namespace anneal
