#include "anneal/dist/reducer.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/generator.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/optim.h"
#include "anneal/tests/dist/groups.h"

namespace anneal::testing {
namespace {

using dist::Reducer;

struct Net : nn::Module {
  Net() { to(DType::f64); }
  Tensor forward(const Tensor& x) const override { return out(tanh(hidden(tanh(in(x))))); }

  nn::Linear in{{this, "in"}, 5, 7}, hidden{{this, "hidden"}, 7, 6}, out{{this, "out"}, 6, 1};
  nn::Linear rare{{this, "rare"}, 5, 1}, never{{this, "never"}, 3, 2};
};

constexpr std::int64_t batch = 12;
constexpr dist::BucketOptions small_buckets{.bucket_bytes = 300, .first_bucket_bytes = 100};

enum class Kind { sgd, adamw };

std::unique_ptr<optim::Optimizer> make_optimizer(Kind kind, const Net& net) {
  if (kind == Kind::sgd)
    return std::make_unique<optim::SGD>(net.parameters(), optim::SGDOptions{.lr = 0.05, .momentum = 0.9});
  return std::make_unique<optim::AdamW>(net.parameters(), optim::AdamWOptions{.lr = 0.01});
}

/// Sample 0 alone uses the layer `rare`, in every third step: one rank, one micro-batch.
Tensor loss_of(const Net& net, int step, std::int64_t begin, std::int64_t end) {
  Generator generator(static_cast<std::uint64_t>(step));
  const GeneratorScope scope(generator);
  const Tensor all = randn({batch, 5}, {.dtype = DType::f64});
  const Tensor x = all.slice(0, begin, end);
  const Tensor error = net(x) - sin(x.slice(1, 0, 1));
  Tensor loss = sum(error * error) * (1.0 / batch);
  if (begin == 0 && step % 3 == 0) loss = loss + sum(net.rare(x.slice(0, 0, 1))) * (0.5 / batch);
  return loss;
}

/// The weights after training on the group's share of every batch, in two micro-batches.
StateDict train(ProcessGroup& group, Kind kind, int steps, dist::BucketOptions options = small_buckets) {
  Generator generator(7 + static_cast<std::uint64_t>(group.rank()));
  const GeneratorScope scope(generator);
  const Net net;
  dist::broadcast(group, net.parameters());  // every rank drew others
  const auto optimizer = make_optimizer(kind, net);
  Reducer reducer(group, optimizer->arenas(), options);
  dist::check_same(group, optimizer->arenas(), reducer.buckets());
  const std::int64_t share = batch / group.size(), first = group.rank() * share;
  for (int step = 0; step < steps; ++step) {
    optimizer->zero_grad();
    loss_of(net, step, first, first + share / 2).backward();
    reducer.prepare();
    loss_of(net, step, first + share / 2, first + share).backward();
    double tail[] = {static_cast<double>(share), step == 3 && group.rank() == 0 ? 1.0 : 0.0};
    reducer.finish(tail);
    EXPECT_EQ(tail[0], static_cast<double>(batch));
    EXPECT_EQ(tail[1], step == 3);
    EXPECT_EQ(leaf_of(net.rare.weight)->touched, step % 3 == 0);
    EXPECT_FALSE(leaf_of(net.never.weight)->touched);
    optimizer->step();
  }
  StateDict state;
  for (const NamedTensor& p : net.parameters()) state.push_back({p.name, p.tensor.detach().clone()});
  return state;
}

StateDict train_ranks(int ranks, Kind kind, int steps, dist::BucketOptions options = small_buckets) {
  std::vector<StateDict> states(static_cast<std::size_t>(ranks));
  ThreadEngine::run(ranks, [&](ProcessGroup& group) {
    states[static_cast<std::size_t>(group.rank())] = train(group, kind, steps, options);
  });
  for (const StateDict& state : states)
    for (std::size_t i = 0; i < state.size(); ++i)
      EXPECT_EQ(bits_of(state[i].tensor), bits_of(states[0][i].tensor)) << "ranks differ in " << state[i].name;
  return states[0];
}

double largest_difference(const StateDict& a, const StateDict& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const std::vector<double> x = a[i].tensor.to_vector(), y = b[i].tensor.to_vector();
    for (std::size_t k = 0; k < x.size(); ++k) largest = std::max(largest, std::abs(x[k] - y[k]));
  }
  return largest;
}

TEST(Reducer, AnyNumberOfRanksTrainsAsOneProcessDoes) {
  for (const Kind kind : {Kind::sgd, Kind::adamw}) {
    const StateDict alone = train_ranks(1, kind, 50);
    EXPECT_GT(largest_difference(alone, train_ranks(1, kind, 1)), 0.01);  // there is something to compare
    for (const int ranks : {2, 3}) EXPECT_LT(largest_difference(train_ranks(ranks, kind, 50), alone), 1e-12);
  }
}

TEST(Reducer, RunsAndBucketSizesGiveTheSameBits) {
  const StateDict first = train_ranks(3, Kind::adamw, 10);
  EXPECT_EQ(largest_difference(train_ranks(3, Kind::adamw, 10), first), 0);
  EXPECT_EQ(largest_difference(train_ranks(3, Kind::adamw, 10, {}), first), 0);
}

TEST(Reducer, WorksOverGloo) {
  if (!dist::has_gloo()) GTEST_SKIP() << "NOT TESTED: this build has no Gloo";
  const StateDict threads = train_ranks(2, Kind::adamw, 5);
  GlooEngine::run(
      2, [&](ProcessGroup& group) { EXPECT_EQ(largest_difference(train(group, Kind::adamw, 5), threads), 0); });
}

/// Notes what is asked for and does nothing.
class Notes final : public ProcessGroup {
 public:
  Notes() : ProcessGroup(0, 2) {}
  void abort(const std::string&) override {}
  std::optional<std::string> failure() const override { return {}; }

  std::vector<std::string> asked;

 protected:
  dist::Work submit(dist::Operation operation) override {
    asked.push_back(operation.what);
    return {};
  }
};

TEST(Reducer, SendsBucketsInOrderWhileBackwardRuns) {
  Notes group;
  const Net net;
  optim::SGD optimizer(net.parameters());
  Reducer reducer(group, optimizer.arenas(), {.bucket_bytes = 8, .first_bucket_bytes = 8});
  ASSERT_EQ(reducer.buckets().size(), 10u);
  const Tensor x = ones({1, 5}, {.dtype = DType::f64}), y = ones({1, 3}, {.dtype = DType::f64});
  const auto loss = [&] { return sum(net.never(y)) + (sum(net.rare(x)) + sum(net(x))); };
  std::size_t sent_before_the_last = 0;
  net.in.weight.register_hook([&](const Tensor&) { sent_before_the_last = group.asked.size(); });

  loss().backward();  // not armed: a micro-batch before the last
  EXPECT_TRUE(group.asked.empty());
  reducer.prepare();
  loss().backward();
  EXPECT_GE(sent_before_the_last, 8u);
  EXPECT_EQ(group.asked.size(), 10u);
  reducer.finish();
  std::vector<std::string> expected;
  for (int b = 0; b < 10; ++b) expected.push_back(format("bucket {}", b));
  expected.push_back("tail");
  EXPECT_EQ(group.asked, expected);

  // A bucket that misses a gradient holds back those after it until the end.
  group.asked.clear();
  optimizer.zero_grad();
  reducer.prepare();
  sum(net(x)).backward();
  EXPECT_TRUE(group.asked.empty());
  reducer.finish();
  EXPECT_EQ(group.asked, expected);
}

TEST(Reducer, ASecondBackwardAndCallsOutOfOrderAreErrors) {
  Notes group;
  const Net net;
  optim::SGD optimizer(net.parameters());
  Reducer reducer(group, optimizer.arenas(), small_buckets);
  const Tensor x = ones({1, 5}, {.dtype = DType::f64});
  expect_contains(error_of([&] { reducer.finish(); }), "finish() without prepare()");
  reducer.prepare();
  (sum(net(x)) + sum(net.rare(x)) + sum(net.never(ones({1, 3}, {.dtype = DType::f64})))).backward();
  expect_contains(error_of([&] { sum(net(x)).backward(); }), "a second time");
  expect_contains(error_of([&] { reducer.prepare(); }), "call finish() first");
  reducer.finish();
  optimizer.rebuild();
  expect_contains(error_of([&] { reducer.prepare(); }), "rebuild()");
}

TEST(Reducer, AFailedRankIsAnErrorOfFinish) {
  ThreadEngine::run(2, [](ProcessGroup& group) {
    const Net net;
    optim::SGD optimizer(net.parameters());
    Reducer reducer(group, optimizer.arenas(), small_buckets);
    reducer.prepare();
    sum(net(ones({1, 5}, {.dtype = DType::f64}))).backward();
    group.barrier();
    if (group.rank() == 1) return group.abort("rank 1 died");
    expect_contains(error_of([&] { reducer.finish(); }), "rank 1 died");
  });
}

TEST(Reducer, HooksOutliveIt) {
  Notes group;
  const Net net;
  optim::SGD optimizer(net.parameters());
  {
    Reducer reducer(group, optimizer.arenas());
    reducer.prepare();
  }
  sum(net(ones({1, 5}, {.dtype = DType::f64}))).backward();
  EXPECT_TRUE(group.asked.empty());
}

TEST(Buckets, TileTheArenasAndEndBetweenParameters) {
  const Net net;
  const nn::Linear other(300, 300);
  std::vector<NamedTensor> parameters = net.parameters();
  for (const NamedTensor& p : other.parameters()) parameters.push_back(p);
  const optim::SGD optimizer(parameters);
  ASSERT_EQ(optimizer.arenas().size(), 2u);
  for (const dist::BucketOptions options : {dist::BucketOptions{}, small_buckets, {.bucket_bytes = 1}}) {
    const auto buckets = dist::make_buckets(optimizer.arenas(), options);
    std::size_t arena = 0, slot = 0;
    std::int64_t end = 0;
    for (const dist::Bucket& bucket : buckets) {
      if (bucket.arena != arena) {
        EXPECT_EQ(end, optimizer.arenas()[arena].gradients().numel());
        ++arena;
        slot = 0;
        end = 0;
      }
      EXPECT_EQ(bucket.begin, end);
      EXPECT_EQ(bucket.first_slot, slot);
      EXPECT_GT(bucket.end_slot, slot);
      end = bucket.end;
      slot = bucket.end_slot;
      EXPECT_GE(end, optimizer.arenas()[arena].slots()[slot - 1].end);
    }
    EXPECT_EQ(arena, 1u);
    EXPECT_EQ(end, optimizer.arenas()[1].gradients().numel());
    EXPECT_EQ(slot, optimizer.arenas()[1].slots().size());
  }
  EXPECT_EQ(dist::make_buckets(optimizer.arenas(), {}).size(), 2u);
  EXPECT_EQ(dist::make_buckets(optimizer.arenas(), {.bucket_bytes = 1}).size(), parameters.size());
  expect_contains(error_of([&] { dist::make_buckets(optimizer.arenas(), {.bucket_bytes = -1}); }), "bucket_bytes");
}

TEST(CheckSame, NamesTheFirstDifferenceOnAllRanks) {
  const auto compare = [](int differing, const std::string& name, std::int64_t out, DType dtype,
                          dist::BucketOptions options, const std::string& expected) {
    ThreadEngine::run(3, [&](ProcessGroup& group) {
      const bool differs = group.rank() == differing;
      nn::Linear a(4, 10), b(10, differs ? out : 3);
      if (differs) b.to(dtype);
      const optim::SGD optimizer(
          std::vector<NamedTensor>{{"a.weight", a.weight}, {differs ? name : "b.weight", b.weight}});
      const auto buckets = dist::make_buckets(optimizer.arenas(), differs ? options : dist::BucketOptions{});
      EXPECT_EQ(error_of([&] { dist::check_same(group, optimizer.arenas(), buckets); }), expected);
      group.barrier();  // the group lives
    });
  };
  compare(2, "b.weight", 3, DType::f32, {}, "");
  compare(2, "b.weight", 5, DType::f32, {}, "rank 2 differs: \"b.weight\" is [5, 10] f32 there, [3, 10] f32 on rank 0");
  compare(0, "b.weight", 5, DType::f32, {}, "rank 1 differs: \"b.weight\" is [3, 10] f32 there, [5, 10] f32 on rank 0");
  compare(1, "c.weight", 3, DType::f32, {}, "rank 1 differs: it has \"c.weight\" where rank 0 has \"b.weight\"");
  compare(1, "b.weight", 3, DType::f32, {.bucket_bytes = 4},
          "rank 1 differs: bucket 0 is [0, 32) of arena 0 there, [0, 80) of arena 0 on rank 0");
  compare(1, "b.weight", 3, DType::f64, {}, "rank 1 differs: it has \"a.weight\" where rank 0 has \"b.weight\"");
}

}  // namespace
}  // namespace anneal::testing
