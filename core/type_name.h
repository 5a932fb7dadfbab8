// Types by name, for texts.
#pragma once

#include <string>
#include <typeinfo>

namespace anneal {
inline namespace v0 {

/// Without namespaces: "Linear". A template's arguments stay as they are.
std::string short_name(const std::type_info& type);

}  // namespace v0
}  // namespace anneal
