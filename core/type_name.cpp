#include "anneal/core/type_name.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>

namespace anneal {
inline namespace v0 {

std::string short_name(const std::type_info& type) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> full(abi::__cxa_demangle(type.name(), nullptr, nullptr, &status),
                                                    &std::free);
  const std::string name = status == 0 ? full.get() : type.name();
  const std::size_t last = name.find('<') == std::string::npos ? name.rfind("::") : std::string::npos;
  return last == std::string::npos ? name : name.substr(last + 2);
}

bool is_base(const std::type_info& type, const std::type_info& derived) {
  if (type == derived) return true;
  // As the C++ ABI describes classes: with one base at their beginning, or with others.
  if (const auto* one = dynamic_cast<const abi::__si_class_type_info*>(&derived))
    return is_base(type, *one->__base_type);
  const auto* several = dynamic_cast<const abi::__vmi_class_type_info*>(&derived);
  for (unsigned i = 0; several && i < several->__base_count; ++i)
    if (is_base(type, *several->__base_info[i].__base_type)) return true;
  return false;
}

}  // namespace v0
}  // namespace anneal
