// Numbers that the scripts of tests/fixtures made.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "anneal/core/error.h"

#if !defined(ANNEAL_FIXTURES)
#define ANNEAL_FIXTURES "tests/fixtures"
#endif

namespace anneal::testing {

/// tests/fixtures/NAME. Throws Error when it is not there.
inline nlohmann::json fixture(const std::string& name) {
  std::ifstream file(std::string(ANNEAL_FIXTURES) + "/" + name);
  check(file.is_open(), "fixture: there is no {}/{}", ANNEAL_FIXTURES, name);
  return nlohmann::json::parse(file);
}

}  // namespace anneal::testing
