// What tests of the engine share: errors and small leaves.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/core/tensor.h"
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

/// A vector of f64 that asks for gradients.
inline Tensor leaf(std::initializer_list<double> values) {
  return tensor(values, {.dtype = DType::f64, .requires_grad = true});
}

}  // namespace anneal::testing
