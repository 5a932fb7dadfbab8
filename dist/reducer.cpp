#include "anneal/dist/reducer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct Reducer::State {
  ProcessGroup& group;
  std::vector<optim::Arena> arenas;
  std::vector<Bucket> buckets;

  // Of each bucket, in order: its range of gradients, its name, and the slots whose gradients are still to come.
  std::vector<Tensor> ranges;
  std::vector<std::string> names;
  std::vector<std::size_t> awaited;
  // Of each slot, all arenas' after each other.
  struct SlotState {
    const optim::Arena::Slot* slot;
    std::size_t bucket;
    bool arrived;
  };
  std::vector<SlotState> slots;

  bool armed = false;
  std::vector<Work> works;  // of the buckets that were sent

  State(ProcessGroup& to, std::span<const optim::Arena> from, BucketOptions options)
      : group(to), arenas(from.begin(), from.end()), buckets(make_buckets(arenas, options)) {
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      const Bucket& bucket = buckets[b];
      const optim::Arena& arena = arenas[bucket.arena];
      ranges.push_back(arena.gradients().slice(0, bucket.begin, bucket.end));
      names.push_back(format("bucket {}", b));
      for (std::size_t s = bucket.first_slot; s < bucket.end_slot; ++s) slots.push_back({&arena.slots()[s], b, false});
    }
  }

  // Called by the leaf's hook.
  void arrive(std::size_t index) {
    if (!armed) return;
    SlotState& state = slots[index];
    check(
        !state.arrived,
        "reducer: backward reached {} a second time, while its gradient is being added over the ranks; call prepare() "
        "before the last backward, and finish() after it",
        state.slot->name);
    state.arrived = true;
    --awaited[state.bucket];
    while (works.size() < buckets.size() && awaited[works.size()] == 0) send();
  }

  void send() {
    const std::size_t next = works.size();
    works.push_back(group.all_reduce_async(ranges[next], ReduceOp::sum, names[next]));
  }
};

Reducer::Reducer(ProcessGroup& group, std::span<const optim::Arena> arenas, BucketOptions options)
    : state_(std::make_shared<State>(group, arenas, options)) {
  if (group.size() == 1) return;
  for (std::size_t i = 0; i < state_->slots.size(); ++i)
    state_->slots[i].slot->parameter.register_hook([weak = std::weak_ptr(state_), i](const Tensor&) {
      if (const auto state = weak.lock()) state->arrive(i);
    });
}

std::span<const Bucket> Reducer::buckets() const { return state_->buckets; }

bool Reducer::serves(std::span<const optim::Arena> arenas) const {
  return std::ranges::equal(arenas, state_->arenas, [](const optim::Arena& a, const optim::Arena& b) {
    return a.values().raw() == b.values().raw();  // kept alive here, so nothing else can be there
  });
}

void Reducer::prepare() {
  State& state = *state_;
  if (state.group.size() == 1) return;
  check(state.works.empty(), "reducer: prepare() while gradients are being added over the ranks; call finish() first");
  state.awaited.assign(state.buckets.size(), 0);
  for (State::SlotState& slot : state.slots) {
    check(
        state.arenas[state.buckets[slot.bucket].arena].holds(*slot.slot),
        "reducer: parameter {} was moved, converted or unfrozen; call the optimizer's rebuild() and make a new reducer",
        slot.slot->name);
    slot.arrived = false;
    ++state.awaited[slot.bucket];
  }
  state.armed = true;
}

void Reducer::finish(std::span<double> tail) {
  State& state = *state_;
  if (state.group.size() == 1) return;
  check(std::exchange(state.armed, false), "reducer: finish() without prepare()");
  // The tail is followed by a flag for each slot: whether this rank has a gradient there.
  const auto numbers = empty({static_cast<std::int64_t>(tail.size() + state.slots.size())}, {.dtype = DType::f64});
  double* const flags = std::copy(tail.begin(), tail.end(), numbers.data<double>());
  for (std::size_t i = 0; i < state.slots.size(); ++i) {
    const Leaf* leaf = leaf_of(state.slots[i].slot->parameter);
    const bool touched = leaf && leaf->touched;
    flags[i] = touched;
    // Memory without a gradient holds an old one. Its bucket was not sent, as this slot did not arrive.
    const optim::Arena& arena = state.arenas[state.buckets[state.slots[i].bucket].arena];
    if (!touched) arena.part(arena.gradients(), *state.slots[i].slot).zero_();
  }
  while (state.works.size() < state.buckets.size()) state.send();
  const Tensor sums = numbers.to(state.group.device());
  state.works.push_back(state.group.all_reduce_async(sums, ReduceOp::sum, "tail"));
  for (const Work& work : std::exchange(state.works, {})) work.wait();

  const Tensor results = sums.to(Device{});
  // On a GPU the copy is the first to wait for the collectives: one that failed meanwhile is seen here.
  if (const auto why = state.group.failure()) throw Error("reducer: " + *why);
  const std::span<const double> values = results.span<double>();
  std::copy_n(values.begin(), tail.size(), tail.begin());
  for (std::size_t i = 0; i < state.slots.size(); ++i)
    if (Leaf* leaf = leaf_of(state.slots[i].slot->parameter)) {
      leaf->touched = values[tail.size() + i] > 0;
      leaf->slot.bump_version();
    }
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
