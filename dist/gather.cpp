#include "anneal/dist/gather.h"

#include <algorithm>
#include <string>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

// Of every rank.
std::vector<Shape> shapes(Collective& group, const Tensor& x) {
  const std::int64_t numbers = Shape::max_rank + 1;
  const Tensor mine = zeros({numbers}, {.dtype = DType::i64});
  const auto own = mine.span<std::int64_t>();
  own[0] = x.rank();
  for (int d = 0; d < x.rank(); ++d) own[static_cast<std::size_t>(d) + 1] = x.size(d);
  const Tensor all = zeros({group.size(), numbers}, {.dtype = DType::i64, .device = x.device()});
  group.all_gather(all, mine.to(x.device()));
  const Tensor known = all.to(Device{});
  std::vector<Shape> list;
  for (int r = 0; r < group.size(); ++r) {
    const auto row = known.span<std::int64_t>().subspan(static_cast<std::size_t>(r * numbers), numbers);
    list.emplace_back(std::span<const std::int64_t>(row.subspan(1, static_cast<std::size_t>(row[0]))));
  }
  return list;
}

std::string text(const std::vector<Shape>& list) {
  std::string all;
  for (std::size_t r = 0; r < list.size(); ++r) all += format("{}rank {} has {}", r == 0 ? "" : ", ", r, list[r]);
  return all;
}

}  // namespace

Tensor gather(Collective& group, const Tensor& tensor, std::optional<double> padding_value) {
  const NoGrad no_grad;
  const Tensor x = tensor.rank() == 0 ? tensor.reshape({1}) : tensor.contiguous();
  const std::vector<Shape> all = shapes(group, x);
  std::int64_t rows = 0;
  for (const Shape& shape : all) {
    check(shape.rank() == x.rank() && shape.without(0) == x.shape().without(0),
          "gather: expected tensors that differ in their first dimension alone, but {}", text(all));
    check(padding_value || shape[0] == all[0][0], "gather: expected tensors of one size, or a padding_value, but {}",
          text(all));
    rows = std::max(rows, shape[0]);
  }
  Shape padded = x.shape();
  padded[0] = rows;
  Tensor mine = x.detach();
  if (x.size(0) < rows) {
    mine = full(padded, *padding_value, {.dtype = x.dtype(), .device = x.device()});
    mine.slice(0, 0, x.size(0)).copy_(x);
  }
  padded[0] = rows * group.size();
  const Tensor joined = empty(padded, {.dtype = x.dtype(), .device = x.device()});
  group.all_gather(joined, mine);
  return joined;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
