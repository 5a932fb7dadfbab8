#include "anneal/data/batch.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "anneal/core/ops.h"
#include "anneal/data/dataset.h"
#include "anneal/data/sampler.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;

namespace {

using Values = std::vector<double>;

Values rows_of(const Dataset& dataset, std::vector<std::int64_t> indices, std::string_view name) {
  return dataset.get(indices)[name].to_vector();
}

}  // namespace

TEST(Batch, FindsTensorsByNameAndPosition) {
  Batch batch{{"x", zeros({3, 2})}, {"y", arange(3)}};
  EXPECT_EQ(batch.size(), 3);
  EXPECT_FALSE(batch.empty());
  EXPECT_TRUE(batch["x"].same(batch[0]));
  EXPECT_TRUE(batch["y"].same(batch[1]));
  EXPECT_EQ(batch.names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(batch.contains("y"));
  EXPECT_FALSE(batch.contains("z"));
  EXPECT_EQ(message_of<Error>([&] { batch["z"]; }), "batch: no tensor \"z\"; it has \"x\", \"y\"");
  EXPECT_EQ(message_of<Error>([&] { Batch()["z"]; }), "batch: no tensor \"z\"; it has none");
  EXPECT_EQ(message_of<Error>([&] { batch[2]; }), "batch: no tensor 2; it has 2 of them");
  EXPECT_THROW(batch[-1], Error);
  EXPECT_THROW((Batch{{"x", zeros({1})}, {"x", zeros({1})}}), Error);
}

TEST(Batch, ReplacesAddsAndMoves) {
  Batch batch{{"x", zeros({3})}};
  batch.set("x", ones({2}));
  batch.set("y", arange(2));
  EXPECT_EQ(batch.size(), 2);
  EXPECT_EQ(batch.names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(batch["x"].to_vector(), (Values{1, 1}));
  const Batch moved = batch.to(Device{});
  EXPECT_TRUE(moved["y"].same(batch["y"]));
  EXPECT_THROW(batch.to(Device{DeviceKind::cuda, 15}), Error);
  int n = 0;
  for (const auto& [name, tensor] : moved) n += tensor.defined() && name.size() == 1;
  EXPECT_EQ(n, 2);
}

TEST(Batch, WithoutSamplesIsEmpty) {
  EXPECT_TRUE(Batch().empty());
  EXPECT_EQ(Batch().size(), 0);
  EXPECT_TRUE((Batch{{"x", empty({0, 4})}}).empty());
}

TEST(TensorDataset, GathersRows) {
  const Tensor x = tensor({0, 1, 2, 3, 4, 5, 6, 7}, {4, 2});
  const TensorDataset dataset{
      {"x", x}, {"column", x.slice(1, 1, 2)}, {"flag", tensor({1, 0, 1, 0}, {.dtype = DType::boolean})}};
  EXPECT_EQ(dataset.size(), 4);
  EXPECT_EQ(rows_of(dataset, {3, 0, 3}, "x"), (Values{6, 7, 0, 1, 6, 7}));
  EXPECT_EQ(rows_of(dataset, {3, 0, 3}, "column"), (Values{7, 1, 7}));
  EXPECT_EQ(rows_of(dataset, {2, 1}, "flag"), (Values{1, 0}));
  EXPECT_EQ(dataset.get(std::vector<std::int64_t>{})["x"].shape(), (Shape{0, 2}));
  EXPECT_THROW(rows_of(dataset, {4}, "x"), Error);
  EXPECT_THROW(rows_of(dataset, {-1}, "x"), Error);
}

TEST(TensorDataset, RefusesTensorsThatDoNotFit) {
  EXPECT_THROW(TensorDataset(std::vector<NamedTensor>{}), Error);
  EXPECT_THROW((TensorDataset{{"x", scalar(1)}}), Error);
  EXPECT_EQ(message_of<Error>([] {
              TensorDataset{{"x", zeros({3, 1})}, {"y", zeros({2})}};
            }),
            "TensorDataset: \"y\" has 2 samples, but \"x\" has 3");
}

TEST(TensorDataset, RowsCarryNoGraph) {
  const TensorDataset dataset{{"x", ones({2, 2}, {.requires_grad = true})}};
  EXPECT_FALSE(dataset.get(std::vector<std::int64_t>{1})["x"].requires_grad());
}

TEST(Subset, ReordersAnotherDataset) {
  const Subset odd(TensorDataset{{"x", arange(10)}}, {9, 7, 5});
  EXPECT_EQ(odd.size(), 3);
  EXPECT_EQ(rows_of(odd, {0, 2}, "x"), (Values{9, 5}));
  EXPECT_EQ(rows_of(Subset(odd, {1}), {0}, "x"), (Values{7}));
  EXPECT_THROW(rows_of(odd, {3}, "x"), Error);
  EXPECT_THROW(Subset(TensorDataset{{"x", arange(10)}}, {10}), Error);
}

TEST(MapDataset, StacksWhatAFunctionMakes) {
  const auto squares = make_dataset(5, [](std::int64_t i) {
    const auto v = static_cast<double>(i);
    return Batch{{"x", tensor({v, -v})}, {"y", scalar(v * v)}};
  });
  EXPECT_EQ(squares.size(), 5);
  const Batch batch = squares.get(std::vector<std::int64_t>{3, 1});
  EXPECT_EQ(batch["x"].shape(), (Shape{2, 2}));
  EXPECT_EQ(batch["x"].to_vector(), (Values{3, -3, 1, -1}));
  EXPECT_EQ(batch["y"].shape(), Shape{2});
  EXPECT_EQ(batch["y"].to_vector(), (Values{9, 1}));
  EXPECT_TRUE(squares.get(std::vector<std::int64_t>{}).empty());
}

TEST(MapDataset, TakesAStructOfTheUsersOwn) {
  struct Sample {
    double value;
  };
  const auto dataset = make_dataset(
      3, [](std::int64_t i) { return Sample{static_cast<double>(i) / 2}; },
      [](std::span<const Sample> samples) {
        Values values;
        for (const Sample& sample : samples) values.push_back(sample.value);
        return Batch{{"v", tensor(values, {static_cast<std::int64_t>(values.size())})}};
      });
  EXPECT_EQ(rows_of(dataset, {2, 1}, "v"), (Values{1, 0.5}));
}

TEST(MapDataset, RefusesSamplesThatDiffer) {
  const auto differ = [](Batch a, Batch b) { return message_of<Error>([&] { collate(std::vector<Batch>{a, b}); }); };
  EXPECT_EQ(differ({{"x", zeros({2})}}, {{"x", zeros({3})}}),
            "collate: \"x\" is f32 [2] in one sample and f32 [3] in another");
  EXPECT_NE(differ({{"x", zeros({2})}}, {{"x", zeros({2}, {.dtype = DType::f64})}}), "");
  EXPECT_NE(differ({{"x", zeros({2})}}, {{"y", zeros({2})}}), "");
}

TEST(Sampler, OrderIsAFunctionOfSeedAndEpoch) {
  const RandomSampler sampler(100, 7);
  const auto order = sampler.order(3);
  EXPECT_EQ(order, RandomSampler(100, 7).order(3));
  EXPECT_NE(order, sampler.order(4));
  EXPECT_NE(order, RandomSampler(100, 8).order(3));
  auto sorted = order;
  std::ranges::sort(sorted);
  EXPECT_EQ(sorted, SequentialSampler(100).order(3));
  EXPECT_EQ(sorted.front(), 0);
  EXPECT_EQ(sorted.back(), 99);
  EXPECT_TRUE(RandomSampler(0, 7).order(0).empty());
}

// The order is part of what a resumed run relies on: it must not change between versions.
TEST(Sampler, OrderStaysWhatItWas) {
  EXPECT_EQ(RandomSampler(8, 42).order(0), (std::vector<std::int64_t>{3, 1, 0, 7, 4, 2, 5, 6}));
  EXPECT_EQ(RandomSampler(8, 42).order(1), (std::vector<std::int64_t>{7, 5, 3, 2, 6, 0, 4, 1}));
}

TEST(Sampler, EveryPositionIsEquallyLikely) {
  int first[4] = {};
  for (std::int64_t epoch = 0; epoch < 4000; ++epoch) ++first[RandomSampler(4, 1).order(epoch)[0]];
  for (const int n : first) EXPECT_NEAR(n, 1000, 150);  // five deviations
}
