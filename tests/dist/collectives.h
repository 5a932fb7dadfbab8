// The tests that every engine of process groups must pass: INSTANTIATE_TYPED_TEST_SUITE_P(Name, Groups, Engine).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "anneal/tests/dist/groups.h"

namespace anneal::testing {

inline double value_of(int rank, std::int64_t i) { return static_cast<double>((i * 7 + rank * 3) % 5); }

/// n elements that differ by rank; small whole numbers, so that every dtype adds them exactly.
inline Tensor numbers(int rank, std::int64_t n, DType dtype) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(value_of(rank, i));
  return tensor(values, {n}, {.dtype = DType::f64}).to(dtype);
}

/// The reduction of all ranks' numbers(rank, n, dtype).
inline std::vector<double> reduced(int ranks, std::int64_t n, DType dtype, ReduceOp op) {
  const auto at = [&](int rank, std::int64_t i) {
    const double value = value_of(rank, i);
    return dtype == DType::boolean ? static_cast<double>(value != 0) : value;
  };
  std::vector<double> result;
  for (std::int64_t i = 0; i < n; ++i) {
    double x = at(0, i);
    for (int r = 1; r < ranks; ++r)
      x = op == ReduceOp::sum ? x + at(r, i) : op == ReduceOp::max ? std::max(x, at(r, i)) : std::min(x, at(r, i));
    result.push_back(dtype == DType::boolean ? std::min(x, 1.0) : x);
  }
  return result;
}

constexpr DType all_dtypes[] = {DType::f32, DType::f64, DType::f16, DType::bf16,
                                DType::i64, DType::i32, DType::u8,  DType::boolean};

inline void check_all_collectives(ProcessGroup& group, std::int64_t n, DType dtype) {
  SCOPED_TRACE(format("rank {} of {}, {} elements of {}", group.rank(), group.size(), n, name_of(dtype)));
  const int size = group.size();
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    const Tensor x = numbers(group.rank(), n, dtype);
    group.all_reduce(x, op);
    EXPECT_EQ(x.to_vector(), reduced(size, n, dtype, op));
  }
  for (int root = 0; root < size; ++root) {
    const Tensor x = numbers(group.rank(), n, dtype);
    group.broadcast(x, root);
    EXPECT_EQ(x.to_vector(), numbers(root, n, dtype).to_vector());
  }
  const Tensor gathered = empty({size, n}, {.dtype = dtype});
  group.all_gather(gathered, numbers(group.rank(), n, dtype));
  for (int r = 0; r < size; ++r) EXPECT_EQ(gathered.select(0, r).to_vector(), numbers(r, n, dtype).to_vector());
  const Tensor part = empty({n}, {.dtype = dtype});
  group.reduce_scatter(part, numbers(group.rank(), size * n, dtype));
  const std::vector<double> whole = reduced(size, size * n, dtype, ReduceOp::sum);
  EXPECT_EQ(part.to_vector(),
            std::vector<double>(whole.begin() + group.rank() * n, whole.begin() + (group.rank() + 1) * n));
  group.barrier();
}

/// What every engine promises; `Engine` is one of those above.
template <class Engine>
class Groups : public ::testing::Test {};
TYPED_TEST_SUITE_P(Groups);

TYPED_TEST_P(Groups, EveryCollectiveIsExactForEveryDtypeAndSize) {
  for (const int ranks : {1, 2, 3})
    TypeParam::run(ranks, [](ProcessGroup& group) {
      for (const std::int64_t n : {0, 1, 2}) check_all_collectives(group, n, DType::f32);
      for (const DType dtype : all_dtypes)
        for (const std::int64_t n : {17, 4099}) check_all_collectives(group, n, dtype);
    });
}

TYPED_TEST_P(Groups, LargeTensorsGoInSegments) {
  TypeParam::run(3, [](ProcessGroup& group) {
    const std::int64_t n = (36 << 20) / 8 + 5;
    const Tensor x = full({n}, group.rank() + 1, {.dtype = DType::f64});
    x.select(0, n - 1).fill_(group.rank());
    group.all_reduce(x);
    EXPECT_EQ(x.data<double>()[0], 6);
    EXPECT_EQ(x.data<double>()[n - 2], 6);
    EXPECT_EQ(x.data<double>()[n - 1], 3);
    const Tensor part = empty({n / 3}, {.dtype = DType::f64});
    group.reduce_scatter(part, x.slice(0, 0, n / 3 * 3));
    EXPECT_EQ(part.data<double>()[0], 18);
    EXPECT_EQ(part.data<double>()[n / 3 - 1], n % 3 == 0 && group.rank() == 2 ? 9 : 18);
  });
}

TYPED_TEST_P(Groups, SixteenBitTypesAreRoundedOnce) {
  TypeParam::run(3, [](ProcessGroup& group) {
    // In halves 2048 + 1 is 2048: adding one after the other would lose both ones.
    const Tensor x = full({3}, group.rank() == 0 ? 2048 : 1, {.dtype = DType::f16});
    group.all_reduce(x);
    EXPECT_EQ(x.to_vector(), std::vector<double>(3, 2050));
  });
}

TYPED_TEST_P(Groups, NotANumberSurvivesEveryReduction) {
  TypeParam::run(2, [](ProcessGroup& group) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
      for (int bad = 0; bad < 2; ++bad) {
        const Tensor x = full({2}, group.rank() == bad ? std::nan("") : 1.0);
        group.all_reduce(x, op);
        EXPECT_TRUE(std::isnan(x.data<float>()[0]) && std::isnan(x.data<float>()[1]));
      }
  });
}

TYPED_TEST_P(Groups, SumsAreInRankOrderHoweverTheTensorIsCut) {
  constexpr std::int64_t n = 10007;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const DType wide = dtype == DType::bf16 ? DType::f32 : dtype;
    const Tensor expected = ((rough_numbers(0, n, dtype).to(wide) + rough_numbers(1, n, dtype).to(wide)) +
                             rough_numbers(2, n, dtype).to(wide))
                                .to(dtype);
    TypeParam::run(3, [&](ProcessGroup& group) {
      const Tensor whole = rough_numbers(group.rank(), n, dtype);
      group.all_reduce(whole);
      const Tensor cut = rough_numbers(group.rank(), n, dtype);
      for (const auto& [begin, end] : {std::pair{0, 1}, {1, 70}, {70, 5000}, {5000, 10007}})
        group.all_reduce(cut.slice(0, begin, end));
      EXPECT_EQ(bits_of(whole), bits_of(expected));
      EXPECT_EQ(bits_of(cut), bits_of(expected));
    });
  }
}

TYPED_TEST_P(Groups, AsynchronousCollectivesRunInTheOrderAskedFor) {
  TypeParam::run(2, [](ProcessGroup& group) {
    const Tensor x = ones({100000}), y = full({3}, group.rank());
    std::vector<dist::Work> works;
    for (int i = 0; i < 10; ++i) works.push_back(group.all_reduce_async(x, ReduceOp::sum, "x"));
    works.push_back(group.broadcast_async(y, 1, "y"));
    works.back().wait();
    for (const dist::Work& work : works) EXPECT_TRUE(work.done());
    EXPECT_EQ(x.data<float>()[99999], 1024);
    EXPECT_EQ(y.data<float>()[2], 1);
    const auto flights = group.flights().last();
    ASSERT_EQ(flights.size(), 11u);
    EXPECT_EQ(flights.back().what, "y");
    EXPECT_EQ(flights.back().state, dist::FlightRecorder::State::done);
  });
}

TYPED_TEST_P(Groups, ADisagreementIsTheSameErrorOnAllRanks) {
  const std::pair<GroupFunction, GroupFunction> pairs[] = {
      {[](ProcessGroup& g) { g.all_reduce(ones({4096})); }, [](ProcessGroup& g) { g.broadcast(ones({64})); }},
      {[](ProcessGroup& g) { g.all_reduce(ones({1000})); }, [](ProcessGroup& g) { g.all_reduce(ones({1001})); }},
      {[](ProcessGroup& g) { g.all_reduce(ones({10})); },
       [](ProcessGroup& g) { g.all_reduce(ones({10}, {.dtype = DType::i32})); }},
      {[](ProcessGroup& g) { g.all_reduce(ones({10})); },
       [](ProcessGroup& g) { g.all_reduce(ones({10}), ReduceOp::max); }},
      {[](ProcessGroup& g) { g.broadcast(ones({10}), 0); }, [](ProcessGroup& g) { g.broadcast(ones({10}), 1); }},
      {[](ProcessGroup& g) { g.barrier(); }, [](ProcessGroup& g) { g.all_reduce(ones({0})); }},
  };
  for (const auto& [of_most, of_last] : pairs)
    for (const int ranks : {2, 3}) {
      std::vector<std::string> errors(static_cast<std::size_t>(ranks));
      TypeParam::run(ranks, [&, &most = of_most, &last = of_last](ProcessGroup& group) {
        group.barrier();
        std::string& text = errors[static_cast<std::size_t>(group.rank())];
        text = error_of([&] { (group.rank() == group.size() - 1 ? last : most)(group); });
        EXPECT_TRUE(group.failure());
        expect_contains(error_of([&] { group.all_reduce(ones({5})); }), "all_reduce #3 (5 f32): rank");
      });
      for (const std::string& text : errors) {
        expect_contains(text, format("rank {} is in ", ranks - 1));
        expect_contains(text, ", rank 0 in ");
        EXPECT_EQ(text.substr(text.find(": ")), errors[0].substr(errors[0].find(": ")));
      }
    }
}

TYPED_TEST_P(Groups, AnAbortWakesABlockedRankAndNamesTheCollective) {
  TypeParam::run(2, [](ProcessGroup& group) {
    group.barrier();
    if (group.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      group.abort("enough");
      EXPECT_EQ(group.failure(), "enough");
      return;
    }
    const dist::Work work = group.all_reduce_async(ones({1 << 20}), ReduceOp::sum, "bucket 3");
    const dist::Work next = group.broadcast_async(ones({2}));
    std::thread aborter([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      group.abort("enough");
    });
    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(error_of([&] { work.wait(); }), "all_reduce #2 (bucket 3, 1048576 f32): enough");
    EXPECT_EQ(error_of([&] { next.wait(); }), "broadcast #3 (2 f32 of rank 0): enough");
    EXPECT_EQ(error_of([&] { group.barrier(); }), "barrier #4: enough");
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(1300));
    aborter.join();
  });
}

TYPED_TEST_P(Groups, ARankThatDoesNotComeIsNamed) {
  TypeParam::run(
      2,
      [](ProcessGroup& group) {
        group.barrier();
        if (group.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
        else expect_contains(error_of([&] { group.barrier(); }), "barrier #2: rank 1 did not come within 0.3 s");
      },
      std::chrono::milliseconds(300));
}

TYPED_TEST_P(Groups, ARankThatLeavesBecauseOfAnExceptionDoesNotKeepTheOthers) {
  TypeParam::run(2, [](ProcessGroup& group) {
    group.barrier();
    if (group.rank() == 1) group.abort("an exception of its own");
    else EXPECT_NE(error_of([&] { group.barrier(); }), "");
  });
}

TYPED_TEST_P(Groups, ArgumentsThatContradictEachOtherAreErrorsOfThisRank) {
  TypeParam::run(2, [](ProcessGroup& group) {
    EXPECT_NE(error_of([&] { group.all_gather(ones({5}), ones({2})); }), "");
    EXPECT_NE(error_of([&] { group.reduce_scatter(ones({2}), ones({5})); }), "");
    EXPECT_NE(error_of([&] { group.broadcast(ones({2}), 2); }), "");
    EXPECT_NE(error_of([&] { group.all_reduce(ones({4, 4}).transpose(0, 1)); }), "");
    group.barrier();  // and the group lives
    EXPECT_FALSE(group.failure());
  });
}

REGISTER_TYPED_TEST_SUITE_P(Groups, EveryCollectiveIsExactForEveryDtypeAndSize, LargeTensorsGoInSegments,
                            SixteenBitTypesAreRoundedOnce, NotANumberSurvivesEveryReduction,
                            SumsAreInRankOrderHoweverTheTensorIsCut, AsynchronousCollectivesRunInTheOrderAskedFor,
                            ADisagreementIsTheSameErrorOnAllRanks, AnAbortWakesABlockedRankAndNamesTheCollective,
                            ARankThatDoesNotComeIsNamed, ARankThatLeavesBecauseOfAnExceptionDoesNotKeepTheOthers,
                            ArgumentsThatContradictEachOtherAreErrorsOfThisRank);

}  // namespace anneal::testing
