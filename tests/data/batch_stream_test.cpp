// Data loaders over streams.
#include "anneal/data/batch_stream.h"

#include <gtest/gtest.h>

#include "anneal/core/ops.h"
#include "anneal/data/data_loader.h"

namespace anneal {
namespace {

std::vector<double> numbers(DataLoader& loader) {
  std::vector<double> seen;
  for (const Batch& batch : loader) seen.push_back(batch["x"].item());
  return seen;
}

DataLoader three(std::uint64_t seed = 0) {
  return DataLoader(
      [](std::int64_t epoch) {
        return [=, i = 0]() mutable -> std::optional<Batch> {
          if (i == 3) return std::nullopt;
          return Batch{{"x", full({1}, static_cast<double>(10 * epoch + i++))}, {"noise", rand({1})}};
        };
      },
      seed);
}

TEST(BatchStream, EachPassIsAnEpochToItsEnd) {
  DataLoader loader = three();
  EXPECT_EQ(numbers(loader), std::vector<double>({0, 1, 2}));
  EXPECT_EQ(numbers(loader), std::vector<double>({10, 11, 12}));
  EXPECT_TRUE(loader.is_stream());
  EXPECT_EQ(loader.size(), unknown_size);
}

TEST(BatchStream, APassMayBeginAnywhereAndDrawsTheSame) {
  const DataLoader loader = three(4);
  BatchIterator whole = loader.begin(2, 0);
  ++whole;
  const double noise = (*whole)["noise"].item();
  BatchIterator rest = loader.begin(2, 1);
  EXPECT_EQ(rest.index(), 1);
  EXPECT_EQ((*rest)["x"].item(), 21);
  EXPECT_EQ((*rest)["noise"].item(), noise);
  EXPECT_NE((*three(5).begin(2, 1))["noise"].item(), noise);
  EXPECT_TRUE(loader.begin(2, 3) == std::default_sentinel);
  EXPECT_TRUE(loader.begin(2, 9) == std::default_sentinel);
}

TEST(BatchStream, TheLastBatchIsKnown) {
  const DataLoader loader = three();
  std::vector<bool> last;
  for (BatchIterator it = loader.begin(0, 0); it != std::default_sentinel; ++it) {
    const bool is_last = it.last();
    EXPECT_EQ(it.last(), is_last);  // asked again, nothing moves
    last.push_back(is_last);
  }
  EXPECT_EQ(last, std::vector<bool>({false, false, true}));
}

TEST(BatchStream, OneThatThrowsIsAtItsEnd) {
  const DataLoader loader([](std::int64_t) {
    return [i = 0]() mutable -> std::optional<Batch> {
      if (i++ == 1) throw Error("the line is cut");
      return Batch{{"x", ones({1})}};
    };
  });
  BatchIterator it = loader.begin(0, 0);
  EXPECT_THROW(++it, Error);
  EXPECT_TRUE(it == std::default_sentinel);
}

// The state is that behind the batches given, whatever was looked at ahead.
TEST(BatchStream, StatesLeadBack) {
  struct Counter : BatchStream {
    std::int64_t i = 0;
    std::optional<Batch> next() override {
      return i < 4 ? std::optional(Batch{{"x", full({1}, static_cast<double>(i++))}}) : std::nullopt;
    }
    StateMap state() const override { return {{"i", i}}; }
    void load_state(const StateMap& state) override { i = std::get<std::int64_t>(state.at("i")); }
  };
  const DataLoader loader([](std::int64_t) { return std::make_unique<Counter>(); });
  BatchIterator it = loader.begin(0, 0);
  ++it;
  for (const bool ahead : {false, true}) {
    if (ahead) it.last();
    EXPECT_EQ((*loader.begin(0, 1, it.state(1)))["x"].item(), 1);
    EXPECT_EQ((*loader.begin(0, 2, it.state(2)))["x"].item(), 2);
  }
}

}  // namespace
}  // namespace anneal
