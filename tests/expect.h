// What tests say about errors.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/tests/temp_folder.h"

namespace anneal::testing {

/// The text of the Error that `f` throws; empty if it throws none.
template <class F>
std::string error_of(F&& f) {
  return message_of<Error>(std::forward<F>(f));
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' should contain '" << part << "'";
}

}  // namespace anneal::testing
