// What the tests of process groups share: ranks as threads, over every engine.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "anneal/core/ops.h"
#include "anneal/dist/gloo_group.h"
#include "anneal/dist/process_group.h"
#include "anneal/dist/store.h"
#include "anneal/dist/store_server.h"
#include "anneal/dist/thread_group.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {

using dist::ProcessGroup;
using GroupFunction = std::function<void(ProcessGroup&)>;

/// Calls f(rank) in n threads; an exception is a failure of the test.
inline void run_threads(int n, const std::function<void(int)>& f) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank)
    threads.emplace_back([&f, rank] {
      try {
        f(rank);
      } catch (const std::exception& error) { ADD_FAILURE() << "rank " << rank << ": " << error.what(); }
    });
  for (std::thread& thread : threads) thread.join();
}

struct ThreadEngine {
  static void run(int n, const GroupFunction& f, std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    auto groups = dist::thread_group(n, timeout);
    run_threads(n, [&](int rank) { f(*groups[static_cast<std::size_t>(rank)]); });
  }
};

/// Threads too, each with its own connection to a store.
struct GlooEngine {
  static void run(int n, const GroupFunction& f, std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    const dist::StoreServer server({.world_size = n, .token = "test"});
    run_threads(n, [&](int rank) {
      const auto store = std::make_shared<dist::Store>(
          dist::StoreOptions{.port = server.port(), .rank = rank, .world_size = n, .token = "test"});
      const auto group = dist::gloo_group(store, {.collective_timeout = timeout});
      f(*group);
    });
  }
};

/// Numbers whose sum depends on the order in which they are added.
inline Tensor rough_numbers(int rank, std::int64_t n, DType dtype) {
  std::vector<double> values;
  std::uint64_t state = 88172645463325252u + static_cast<std::uint64_t>(rank);
  for (std::int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.push_back((static_cast<double>(state >> 40) / 16777216 - 0.5) * static_cast<double>(1 + i % 97));
  }
  return tensor(values, {n}, {.dtype = DType::f64}).to(dtype);
}

inline std::string bits_of(const Tensor& t) {
  return {static_cast<const char*>(t.raw()), static_cast<std::size_t>(t.numel()) * size_of(t.dtype())};
}

}  // namespace anneal::testing
