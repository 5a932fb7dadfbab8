// Reading and adding at indices.
#include "anneal/core/autograd.h"
#include "anneal/core/bad_index.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

// Indices as the kernels take them: dense i64.
Tensor as_index(const Tensor& index, const char* op) {
  check(index.dtype() == DType::i64 || index.dtype() == DType::i32, "{}: expected indices of i64 or i32, got {}", op,
        name_of(index.dtype()));
  return index.to(DType::i64).contiguous();
}
const std::int64_t* data_of(const Tensor& index) { return static_cast<const std::int64_t*>(index.raw()); }

void check_found(const BadIndex& bad, const Tensor& index, std::int64_t size, const char* op) {
  bad.check([&](std::int64_t at) {
    return format("{}: index {} at position {} is not in [0, {})", op, index.flatten().select(0, at).item(), at, size);
  });
}

// The part of Gather and ScatterAdd that says where an element of `index` points to in x.
template <class Args>
void fill_walk(Args& args, const Tensor& x, int dim, const Tensor& index, const char* op) {
  check_devices(op, x, index);
  check(index.rank() == x.rank(), "{}: index {} and tensor {} must have as many dimensions", op, index.shape(),
        x.shape());
  args.dtype = x.dtype();
  args.rank = x.rank();
  args.dim = dim;
  args.x_size = x.shape()[dim];
  for (int d = 0; d < x.rank(); ++d) {
    check(d == dim || index.shape()[d] <= x.shape()[d], "{}: index {} is larger than the tensor {} in dimension {}", op,
          index.shape(), x.shape(), d);
    args.size[d] = index.shape()[d];
    args.x_stride[d] = x.strides()[d];
  }
}

struct GatherRule {
  static constexpr const char* name = "gather";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& shape, int dim, const Tensor& index) {
    dx.set(0, scatter_add(zeros(shape, {.dtype = dy.dtype(), .device = dy.device()}), dim, index, dy));
  }
};
struct ScatterAddRule {
  static constexpr const char* name = "scatter_add";
  static void backward(const Tensor& dy, Gradients& dx, int dim, const Tensor& index) {
    if (dx.wants(0)) dx.set(0, dy);
    if (dx.wants(1)) dx.set(1, gather(dy, dim, index));
  }
};

Tensor embedding_grad(const Tensor& dy, const Tensor& index, const Shape& table, std::int64_t padding);
struct EmbeddingGradRule {
  static constexpr const char* name = "embedding_backward";
  static void backward(const Tensor& g, Gradients& dx, const Tensor& index, std::int64_t padding) {
    Tensor rows = embedding(index, g);
    if (padding >= 0) {
      const Tensor pad = full({}, static_cast<double>(padding), {.dtype = DType::i64, .device = index.device()});
      rows = masked_fill(rows, eq(index, pad).unsqueeze(-1), 0);
    }
    dx.set(0, rows);
  }
};
void launch_embedding_grad(const Tensor& dy, const Tensor& index, std::int64_t padding, const Destination& to) {
  const NoGrad no_grad;
  const Tensor dense_dy = dy.contiguous();
  launch(dy.device(), kernels::EmbeddingGrad{dy.dtype(), index.numel(), to.out.size(0), to.out.size(1), padding,
                                             data_of(index), dense_dy.raw(), to.out.raw(), to.accumulate});
}
Tensor embedding_grad(const Tensor& dy, const Tensor& index, const Shape& table, std::int64_t padding) {
  const Tensor dtable = empty(table, {.dtype = dy.dtype(), .device = dy.device()});
  launch_embedding_grad(dy, index, padding, {dtable, false});
  return record<EmbeddingGradRule>(dtable, {dy}, index, padding);
}
struct EmbeddingRule {
  static constexpr const char* name = "embedding";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& index, const Tensor& table,
                       std::int64_t padding) {
    if (grad_enabled()) dx.set(0, embedding_grad(dy, index, table.shape(), padding));
    else launch_embedding_grad(dy, index, padding, dx.into(0, table));
  }
};

}  // namespace

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  dim = x.shape().wrap(dim);
  const Tensor where = as_index(index, "gather");
  const Tensor y = empty(where.shape(), {.dtype = x.dtype(), .device = x.device()});
  BadIndex bad(x.device(), "gather");
  kernels::Gather args{};
  fill_walk(args, x, dim, where, "gather");
  args.x = x.raw();
  args.index = data_of(where);
  args.y = y.raw();
  args.bad = bad.word();
  launch(x.device(), args);
  check_found(bad, where, x.shape()[dim], "gather");
  return record<GatherRule>(y, {x}, x.shape(), dim, where);
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src) {
  dim = x.shape().wrap(dim);
  const Tensor where = as_index(index, "scatter_add");
  check_devices("scatter_add", x, src);
  check(src.shape() == where.shape() && src.dtype() == x.dtype(),
        "scatter_add: index {} and a {} tensor need src like that, got {} {}", where.shape(), name_of(x.dtype()),
        name_of(src.dtype()), src.shape());
  const Tensor y = [&] {
    const NoGrad no_grad;
    return x.clone();
  }();
  const Tensor dense_src = src.contiguous();
  BadIndex bad(x.device(), "scatter_add");
  kernels::ScatterAdd args{};
  fill_walk(args, y, dim, where, "scatter_add");
  args.x = y.raw();
  args.index = data_of(where);
  args.src = dense_src.raw();
  args.bad = bad.word();
  launch(x.device(), args);
  check_found(bad, where, x.shape()[dim], "scatter_add");
  return record<ScatterAddRule>(y, {x, src}, dim, where);
}

Tensor index_select(const Tensor& x, int dim, const Tensor& index) {
  check(index.rank() == 1, "index_select: expected a vector of indices, got shape {}", index.shape());
  dim = x.shape().wrap(dim);
  Shape column = x.shape();
  for (int d = 0; d < x.rank(); ++d) column[d] = d == dim ? index.size(0) : 1;
  Shape full = x.shape();
  full[dim] = index.size(0);
  return gather(x, dim, index.reshape(column).expand(full));
}

Tensor embedding(const Tensor& index, const Tensor& table, std::int64_t padding) {
  check(table.rank() == 2 && is_floating(table.dtype()), "embedding: expected a floating table [rows, cols], got {} {}",
        name_of(table.dtype()), table.shape());
  const Tensor where = as_index(index, "embedding");
  check_devices("embedding", table, index);
  const Tensor dense = table.contiguous();
  const Tensor y =
      empty(where.shape().with(where.rank(), table.size(1)), {.dtype = table.dtype(), .device = table.device()});
  BadIndex bad(table.device(), "embedding");
  launch(table.device(), kernels::Embedding{table.dtype(), where.numel(), table.size(0), table.size(1), dense.raw(),
                                            data_of(where), y.raw(), bad.word()});
  check_found(bad, where, table.size(0), "embedding");
  return record<EmbeddingRule>(y, {dense}, where, dense, padding);
}

Tensor one_hot(const Tensor& index, std::int64_t classes) {
  const Tensor column = as_index(index, "one_hot").unsqueeze(-1);
  const Tensor zero = zeros(index.shape().with(index.rank(), classes), {.device = index.device()});
  return scatter_add(zero, -1, column, ones(column.shape(), {.device = index.device()}));
}

}  // namespace v0
}  // namespace anneal
