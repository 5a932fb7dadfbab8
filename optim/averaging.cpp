#include "anneal/optim/averaging.h"

#include <algorithm>
#include <map>

#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/optim/device_table.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

constexpr const char* count_name = "averaging.count";

DType average_dtype(DType dtype) { return size_of(dtype) == 2 && is_floating(dtype) ? DType::f32 : dtype; }

}  // namespace

AveragingRule swa_avg() {
  return [](std::int64_t count) { return 1 / static_cast<double>(count + 1); };
}
AveragingRule ema_avg(double decay, bool warmup) {
  check<ConfigError>(decay >= 0 && decay <= 1, "decay: expected 0 to 1, got {}", decay);
  return [=](std::int64_t count) {
    const auto t = static_cast<double>(count);
    return 1 - (warmup ? std::min(decay, (1 + t) / (10 + t)) : decay);
  };
}

struct AveragedWeights::Range::Tables {
  DeviceTable<kernels::Block> blocks;
  DeviceTable<kernels::OptimGroup> groups;
};

AveragedWeights::AveragedWeights(std::vector<NamedTensor> tensors, AveragingRule rule, Optimizer* optimizer,
                                 std::optional<Device> device)
    : rule_(std::move(rule)), optimizer_(optimizer), device_(device) {
  for (NamedTensor& t : tensors) {
    check(t.tensor.is_contiguous(), "averages: {} is not contiguous", t.name);
    for (const Entry& e : entries_)
      check(!e.own.tensor.same(t.tensor) && e.own.name != t.name, "averages: {} is given twice", t.name);
    entries_.emplace_back().own = std::move(t);
  }
}

bool AveragedWeights::moved() const {
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& e) {
    return !e.average.defined() || e.own.tensor.raw() != e.address ||
           e.average.dtype() != average_dtype(e.own.tensor.dtype());
  });
}

// Makes the ranges for where the tensors are now. Averages that there are go along.
void AveragedWeights::find_ranges() {
  ranges_.clear();
  std::map<const TensorImpl*, Entry*> left;
  for (Entry& e : entries_) left.emplace(&e.own.tensor.impl(), &e);
  const auto place = [&](Entry& e, const Tensor& average) {
    if (e.average.defined()) average.copy_(e.average);
    e.average = average;
    e.address = e.own.tensor.raw();
  };
  const std::span<const Arena> arenas = optimizer_ ? optimizer_->arenas() : std::span<const Arena>();
  for (const Arena& arena : arenas) {
    const auto is_ours = [&](const Arena::Slot& slot) {
      return left.contains(&slot.parameter.impl()) && arena.holds(slot);
    };
    if (!std::all_of(arena.slots().begin(), arena.slots().end(), is_ours)) continue;
    const Tensor& values = arena.values();
    const DType dtype = average_dtype(arena.dtype());
    const Device device = device_for(values);
    const Tensor block = device == values.device() ? arena.new_block(5, dtype)  // after the optimizer's own
                                                   : zeros(values.shape(), {.dtype = dtype, .device = device});
    std::vector<kernels::Block> blocks;
    for (const Arena::Slot& slot : arena.slots()) {
      blocks.push_back({slot.begin, slot.end, 0, true});
      place(*left.extract(&slot.parameter.impl()).mapped(), arena.part(block, slot));
    }
    const bool fits = device == values.device() && dtype == arena.dtype();
    const auto number = static_cast<std::size_t>(&arena - arenas.data());
    add_range(values, block, std::move(blocks), fits ? std::optional(number) : std::nullopt);
  }
  for (Entry& e : entries_) {
    const Tensor& own = e.own.tensor;
    if (!left.contains(&own.impl())) continue;
    const Tensor average = zeros({own.numel()}, {.dtype = average_dtype(own.dtype()), .device = device_for(own)});
    place(e, average.view(own.shape()));
    add_range(own.detach().view({own.numel()}), average, {{0, own.numel(), 0, true}});
  }
}

void AveragedWeights::add_range(const Tensor& values, const Tensor& averages, std::vector<kernels::Block> blocks,
                                std::optional<std::size_t> arena) {
  const auto count = static_cast<std::int64_t>(blocks.size());
  ranges_.push_back({.values = values,
                     .averages = averages,
                     .swapped_out = {},
                     .arena = arena,
                     .blocks = std::move(blocks),
                     .steps = zeros({count}, {.dtype = DType::i64, .device = averages.device()}),
                     .tables = std::make_shared<Range::Tables>()});
}

// One step down the slope of (average - value)^2 / 2, with the share as its learning rate.
void AveragedWeights::blend(Range& range, double share) {
  const Device device = range.averages.device();
  const DType dtype = range.averages.dtype();
  const Tensor values = range.values.to(device).to(dtype);
  kernels::OptimGroup group{};
  group.lr = share;
  group.weight_decay = 1;
  group.maximize = true;
  launch(device, kernels::SgdStep{{.dtype = dtype,
                                   .twin_dtype = dtype,
                                   .blocks = range.tables->blocks.on(device, range.blocks),
                                   .n_blocks = static_cast<std::int64_t>(range.blocks.size()),
                                   .groups = range.tables->groups.on(device, {group}),
                                   .steps = static_cast<std::int64_t*>(range.steps.raw()),
                                   .state = nullptr,
                                   .clip_value = 0,
                                   .gradients = values.raw(),
                                   .values = range.averages.raw(),
                                   .twin = nullptr},
                                  nullptr});
}

void AveragedWeights::update() { take_in(false); }

void AveragedWeights::begin_update() {
  const auto* share = std::get_if<AveragingShare>(&rule_);
  if (!optimizer_ || !share || count_ == 0 || swapped_) return;  // the first values are copied
  if (moved()) find_ranges();
  std::vector<Tensor> averages(optimizer_->arenas().size());
  for (const Range& range : ranges_)
    if (range.arena) averages[*range.arena] = range.averages;
  optimizer_->defer_averages(std::move(averages), (*share)(count_));
}

void AveragedWeights::finish_update() { take_in(true); }

void AveragedWeights::take_in(bool after_step) {
  check(!swapped_, "averages: update() while they are in the model; swap() them out first");
  if (moved()) find_ranges();
  const NoGrad no_grad;
  const auto* share = std::get_if<AveragingShare>(&rule_);
  for (Range& range : ranges_) {
    if (after_step && range.arena && optimizer_->has_averaged(*range.arena)) continue;
    if (count_ == 0 || !is_floating(range.values.dtype())) range.averages.copy_(range.values);
    else if (share) blend(range, (*share)(count_));
  }
  for (const Entry& e : entries_) {
    if (count_ == 0 || share || !is_floating(e.average.dtype())) continue;
    const Tensor value = e.own.tensor.detach().to(e.average.device()).to(e.average.dtype());
    e.average.copy_(std::get<AveragingFunction>(rule_)(e.average, value, count_));
  }
  ++count_;
}

void AveragedWeights::swap() {
  if (count_ == 0) return;
  if (swapped_) check(!moved(), "averages: a tensor was moved or converted while it held its average");
  else if (moved()) find_ranges();
  for (Range& range : ranges_) {
    if (!swapped_) range.swapped_out = range.values.to(range.averages.device()).clone();
    range.values.copy_(swapped_ ? range.swapped_out : range.averages);
    if (swapped_) range.swapped_out = {};
  }
  for (const Entry& e : entries_) e.own.tensor.bump_version();
  swapped_ = !swapped_;
}

StateDict AveragedWeights::averages() const {
  StateDict averages;
  if (count_ == 0) return averages;
  for (const Entry& e : entries_) averages.push_back({e.own.name, e.average});
  return averages;
}

StateDict AveragedWeights::state_dict() const {
  StateDict state = averages();
  for (NamedTensor& entry : state) entry.tensor = entry.tensor.clone();
  state.push_back({count_name, scalar(static_cast<double>(count_), {.dtype = DType::i64})});
  return state;
}

void AveragedWeights::load_state_dict(std::span<const NamedTensor> state) {
  check(!swapped_, "averages: load_state_dict() while they are in the model; swap() them out first");
  std::map<std::string, Tensor> given;
  for (const NamedTensor& entry : state) given.emplace(entry.name, entry.tensor);
  check(given.contains(count_name), "averages: the state does not fit:\n  missing: {}", count_name);
  const auto count = static_cast<std::int64_t>(given.extract(count_name).mapped().item());
  std::string problems;
  std::vector<Tensor> found;
  for (const Entry& e : std::span(entries_).first(count > 0 ? entries_.size() : 0)) {
    const auto it = given.find(e.own.name);
    if (it == given.end()) {
      problems += "\n  missing: " + e.own.name;
      continue;
    }
    if (it->second.shape() != e.own.tensor.shape())
      problems +=
          format("\n  wrong shape: {} is {}, expected {}", e.own.name, it->second.shape(), e.own.tensor.shape());
    found.push_back(it->second);
    given.erase(it);
  }
  for (const auto& [name, tensor] : given) problems += "\n  unexpected: " + name;
  check(problems.empty(), "averages: the state does not fit:{}", problems);
  if (count > 0 && moved()) find_ranges();
  for (std::size_t i = 0; i < found.size(); ++i) entries_[i].average.copy_(found[i]);
  count_ = count;
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
