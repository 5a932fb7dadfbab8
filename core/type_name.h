// Types by name, for texts.
#pragma once

#include <string>
#include <typeinfo>

namespace anneal {
inline namespace v0 {

/// Without namespaces: "Linear". A template's arguments stay as they are.
std::string short_name(const std::type_info& type);
/// Whether the type is `derived` or one of the classes that it derives from.
bool is_base(const std::type_info& type, const std::type_info& derived);

}  // namespace v0
}  // namespace anneal
