#include "anneal/trainer/gather_predictions.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "anneal/core/ops.h"
#include "anneal/dist/gather.h"

namespace anneal {
inline namespace v0 {
namespace {

Batch joined(const std::vector<Batch>& batches) {
  std::vector<NamedTensor> all;
  if (batches.empty()) return {};
  for (const std::string& name : batches.front().names()) {
    std::vector<Tensor> parts;
    for (const Batch& batch : batches) {
      parts.push_back(batch[name]);
      check(parts.back().rank() > 0, "predict: gather: {}: expected a row for each sample, got a scalar", name);
    }
    all.push_back({name, cat(parts)});
  }
  return Batch(std::move(all));
}

// A line for each tensor: dtype, the dimensions but the first, name.
std::string described(const Batch& batch) {
  std::ostringstream text;
  for (const NamedTensor& entry : batch) {
    text << static_cast<int>(entry.tensor.dtype()) << ' ' << entry.tensor.rank() - 1;
    for (int d = 1; d < entry.tensor.rank(); ++d) text << ' ' << entry.tensor.size(d);
    text << ' ' << entry.name << '\n';
  }
  return text.str();
}

// The same without rows, for a rank that predicted nothing.
Batch without_rows(const std::string& description) {
  std::vector<NamedTensor> all;
  std::istringstream text(description);
  for (int dtype = 0; text >> dtype;) {
    int rank = 0;
    text >> rank;
    std::vector<std::int64_t> shape(static_cast<std::size_t>(rank) + 1);
    for (int d = 1; d <= rank; ++d) text >> shape[static_cast<std::size_t>(d)];
    std::string name;
    std::getline(text.ignore(), name);
    all.push_back({name, zeros(Shape(shape), {.dtype = static_cast<DType>(dtype)})});
  }
  return Batch(std::move(all));
}

// What the ranks predicted is described alike, but for those that predicted nothing.
std::string agreed(const std::vector<std::string>& descriptions) {
  const auto first = std::ranges::find_if(descriptions, [](const std::string& text) { return !text.empty(); });
  if (first == descriptions.end()) return {};
  for (const std::string& other : descriptions)
    check(other.empty() || other == *first, "predict: gather: expected the same tensors on all ranks, got\n{}and\n{}",
          *first, other);
  return *first;
}

// Where each sample's row is, in the samples' order.
Tensor rows_in_order(const Tensor& samples) {
  std::map<std::int64_t, std::int64_t> row_of;
  std::int64_t row = 0;
  for (const std::int64_t sample : samples.span<std::int64_t>()) {
    if (sample >= 0) row_of.emplace(sample, row);
    ++row;
  }
  const Tensor order = zeros({static_cast<std::int64_t>(row_of.size())}, {.dtype = DType::i64});
  auto place = order.span<std::int64_t>().begin();
  for (const auto& [sample, of] : row_of) *place++ = of;
  return order;
}

}  // namespace

Batch gather_predictions(TrainerState& s, const std::vector<Batch>& batches, const std::vector<std::int64_t>& samples) {
  Batch mine = joined(batches);
  const auto count = static_cast<std::int64_t>(samples.size());
  for (const NamedTensor& entry : mine)
    check(entry.tensor.size(0) == count, "predict: gather: {}: expected a row for each of {} samples, got {}",
          entry.name, count, entry.tensor.shape());
  const std::string description = agreed(s.from_all_ranks("trainer/predictions", described(mine)));
  if (mine.names().empty()) mine = without_rows(description);

  const auto gathered = [&](const Tensor& tensor, double padding) {
    if (!s.world) return tensor;
    auto& group = s.world->group();
    return dist::gather(group, tensor.to(group.device()), padding).to(Device{});
  };
  const Tensor indices = zeros({count}, {.dtype = DType::i64});
  std::ranges::copy(samples, indices.span<std::int64_t>().begin());
  const Tensor order = rows_in_order(gathered(indices, -1));
  std::vector<NamedTensor> all;
  for (const NamedTensor& entry : mine) all.push_back({entry.name, index_select(gathered(entry.tensor, 0), 0, order)});
  return Batch(std::move(all));
}

}  // namespace v0
}  // namespace anneal
