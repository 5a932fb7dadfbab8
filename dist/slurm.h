// The two notations of Slurm's environment that a rank must read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace dist {

/// The first host of a node list: "node[08-10,12],gpu1" -> "node08". Throws Error for what is no node list.
std::string first_host(std::string_view node_list);

/// How many tasks run on a node, by its number from 0: of "2(x3),1" nodes 0 to 2 run 2, node 3 runs 1. Throws Error for
/// what is no such list, or has no such node.
std::int64_t tasks_on_node(std::string_view tasks_per_node, std::int64_t node);

}  // namespace dist
}  // namespace v0
}  // namespace anneal
