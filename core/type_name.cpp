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

}  // namespace v0
}  // namespace anneal
