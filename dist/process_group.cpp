#include "anneal/dist/process_group.h"

namespace anneal {
inline namespace v0 {
namespace dist {

using Kind = Signature::Kind;

ProcessGroup::ProcessGroup(int rank, int size) : rank_(rank), size_(size) {
  check(0 <= rank && rank < size, "process group: there is no rank {} of {}", rank, size);
}

Work ProcessGroup::ask(Operation operation) {
  const std::lock_guard lock(order_);
  operation.sequence = sequence_ + 1;
  for (const Tensor* tensor : {&operation.output, &operation.input}) {
    if (!tensor->defined()) continue;
    check(tensor->is_contiguous(), "{}: a tensor of shape {} is not contiguous", operation.describe(), tensor->shape());
    check(tensor->device() == device(), "{}: expected a tensor on {}, got one on {}", operation.describe(), device(),
          tensor->device());
  }
  // Only now: a call that throws is none, and the ranks stay in step.
  ++sequence_;
  if (operation.output.defined()) operation.output.bump_version();
  return submit(std::move(operation));
}

Work ProcessGroup::all_reduce_async(const Tensor& tensor, ReduceOp op, std::string_view what) {
  return ask({.signature = {.count = tensor.numel(), .kind = Kind::all_reduce, .op = op, .dtype = tensor.dtype()},
              .what = std::string(what),
              .output = tensor});
}

Work ProcessGroup::broadcast_async(const Tensor& tensor, int root, std::string_view what) {
  check(0 <= root && root < size(), "broadcast: there is no rank {} of {}", root, size());
  return ask({.signature = {.count = tensor.numel(), .root = root, .kind = Kind::broadcast, .dtype = tensor.dtype()},
              .what = std::string(what),
              .output = tensor});
}

Work ProcessGroup::all_gather_async(const Tensor& output, const Tensor& input, std::string_view what) {
  check(output.dtype() == input.dtype() && output.numel() == input.numel() * size(),
        "all_gather: {} elements of {} from each of {} ranks do not fill {} of {}", input.numel(),
        name_of(input.dtype()), size(), output.numel(), name_of(output.dtype()));
  return ask({.signature = {.count = input.numel(), .kind = Kind::all_gather, .dtype = input.dtype()},
              .what = std::string(what),
              .output = output,
              .input = input});
}

Work ProcessGroup::reduce_scatter_async(const Tensor& output, const Tensor& input, std::string_view what) {
  check(output.dtype() == input.dtype() && input.numel() == output.numel() * size(),
        "reduce_scatter: {} elements of {} are not {} parts of {} elements of {}", input.numel(),
        name_of(input.dtype()), size(), output.numel(), name_of(output.dtype()));
  return ask({.signature = {.count = output.numel(), .kind = Kind::reduce_scatter, .dtype = output.dtype()},
              .what = std::string(what),
              .output = output,
              .input = input});
}

Work ProcessGroup::barrier_async() { return ask({}); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal
