// What the library throws.
#pragma once

#include <stdexcept>
#include <string>

#include "anneal/core/format.h"

namespace anneal {
inline namespace v0 {

/// Base of every exception of the library; the text names what was expected and what came.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// A bad option or a contradiction between options; the text begins with the option's name.
class ConfigError : public Error {
 public:
  using Error::Error;
};
/// An allocation failed or would pass the allocator's limit.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// With AnomalyMode: an op gave a NaN or an infinity.
class AnomalyError : public Error {
 public:
  using Error::Error;
};

/// Throws `E(format(pattern, args...))` unless the condition holds.
template <class E = Error, class... Args>
inline void check(bool condition, std::string_view pattern, const Args&... args) {
  if (!condition) [[unlikely]]
    throw E(format(pattern, args...));
}

}  // namespace v0
}  // namespace anneal
