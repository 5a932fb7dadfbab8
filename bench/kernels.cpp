// Our side of `scripts/bench kernels` (see rounds.h): kernels called directly, without tensors' bookkeeping.
#include <anneal/anneal.h>
#include <anneal/bench/rounds.h>
#include <anneal/kernels/kernels.h>
#include <anneal/kernels/parallel.h>
#include <anneal/kernels/pointwise.h>

#include <cmath>
#include <map>
#include <memory>

using namespace anneal;
using bench::Call;
using bench::Case;
using bench::numbers;

namespace {

DType dtype_named(const std::string& name) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64})
    if (name == name_of(dtype)) return dtype;
  throw Error("no dtype " + name);
}

// A call of a kernel; it keeps the tensors that `args` points into.
template <class Args>
Call call(const Args& args, std::vector<Tensor> tensors) {
  return [args, tensors = std::move(tensors)] { kernels::cpu::run(args); };
}

Call gemm(const Case& c) {
  const bench::Product p(c);
  const DType dtype = dtype_named(c.dtype);
  const Tensor a = numbers({p.m * p.k}, dtype), b = numbers({p.k * p.n}, dtype), y = numbers({p.m * p.n}, dtype);
  return call(kernels::Gemm{.dtype = dtype,
                            .out = dtype,
                            .trans_a = p.trans_a,
                            .trans_b = p.trans_b,
                            .m = p.m,
                            .n = p.n,
                            .k = p.k,
                            .lda = p.lda(),
                            .ldb = p.ldb(),
                            .ldc = p.n,
                            .batch = 1,
                            .a = a.raw(),
                            .b = b.raw(),
                            .c = y.raw()},
              {a, b, y});
}

Call conv(const Case& c) {
  const bench::Convolution p(c);
  const DType dtype = dtype_named(c.dtype);
  const kernels::ConvShape shape{.n = p.n,
                                 .c_in = p.c_in,
                                 .h = p.h,
                                 .w = p.w,
                                 .c_out = p.c_out,
                                 .kernel_h = p.window,
                                 .kernel_w = p.window,
                                 .stride_h = p.stride,
                                 .stride_w = p.stride,
                                 .padding_h = p.padding,
                                 .padding_w = p.padding,
                                 .dilation_h = 1,
                                 .dilation_w = 1,
                                 .groups = 1};
  const Tensor x = numbers({p.n, p.c_in, p.h, p.w}, dtype);
  const Tensor weight = numbers({p.c_out, p.c_in, p.window, p.window}, dtype);
  const Tensor y = numbers({p.n, p.c_out, p.out_h(), p.out_w()}, dtype);
  std::vector<Tensor> all{x, weight, y};
  if (c.kernel == "conv")
    return call(
        kernels::Conv2d{.dtype = dtype, .shape = shape, .x = x.raw(), .weight = weight.raw(), .bias = {}, .y = y.raw()},
        all);
  if (c.kernel == "conv_input_grad")
    return call(
        kernels::Conv2dInputGrad{.dtype = dtype, .shape = shape, .dy = y.raw(), .weight = weight.raw(), .dx = x.raw()},
        all);
  return call(
      kernels::Conv2dWeightGrad{
          .dtype = dtype, .out = dtype, .shape = shape, .dy = y.raw(), .x = x.raw(), .dweight = weight.raw()},
      all);
}

// Sizes: batch, heads, time, depth. Each position sees those before; queries, keys and values are of one tensor, as a
// linear layer leaves them.
Call attention(const Case& c) {
  const std::int64_t batch = c.sizes.at(0), heads = c.sizes.at(1), time = c.sizes.at(2), depth = c.sizes.at(3);
  const DType dtype = dtype_named(c.dtype);
  const Tensor qkv = numbers({batch, time, 3, heads, depth}, dtype), dqkv = numbers(qkv.shape(), dtype);
  const Tensor out = numbers({batch, time, heads, depth}, dtype), dout = numbers(out.shape(), dtype);
  const Tensor lse = numbers({batch, heads, time});
  const auto part = [](const Tensor& all, int i) { return all.select(2, i).raw(); };
  const kernels::HeadStrides in_strides{time * 3 * heads * depth, depth, 3 * heads * depth};
  const kernels::HeadStrides out_strides{time * heads * depth, depth, heads * depth};
  const kernels::AttentionInputs inputs{.dtype = dtype,
                                        .batch = batch,
                                        .heads = heads,
                                        .group = 1,
                                        .queries = time,
                                        .keys = time,
                                        .depth = depth,
                                        .value_depth = depth,
                                        .scale = 1 / std::sqrt(static_cast<double>(depth)),
                                        .causal = true,
                                        .q = part(qkv, 0),
                                        .k = part(qkv, 1),
                                        .v = part(qkv, 2),
                                        .q_strides = in_strides,
                                        .k_strides = in_strides,
                                        .v_strides = in_strides};
  const kernels::Attention forward{inputs, out.raw(), out_strides, lse.raw()};
  std::vector<Tensor> all{qkv, dqkv, out, dout, lse};
  if (c.kernel == "attention") return call(forward, all);
  kernels::cpu::run(forward);  // the gradient wants its results
  return call(kernels::AttentionGrad{inputs, out.raw(), dout.raw(), out_strides, out_strides, lse.raw(), part(dqkv, 0),
                                     part(dqkv, 1), part(dqkv, 2), in_strides, in_strides, in_strides},
              all);
}

Call layer_norm(const Case& c) {
  const std::int64_t rows = c.sizes.at(0), cols = c.sizes.at(1);
  const Tensor x = numbers({rows, cols}), y = numbers({rows, cols}), dx = numbers({rows, cols});
  const Tensor weight = numbers({cols}), bias = numbers({cols}), mean = zeros({rows}), rstd = ones({rows});
  const Tensor dweight = zeros({cols}), dbias = zeros({cols});
  std::vector<Tensor> all{x, y, dx, weight, bias, mean, rstd, dweight, dbias};
  if (c.kernel == "layer_norm")
    return call(kernels::LayerNorm{.dtype = DType::f32,
                                   .rows = rows,
                                   .cols = cols,
                                   .eps = 1e-5,
                                   .x = x.raw(),
                                   .weight = weight.raw(),
                                   .bias = bias.raw(),
                                   .y = y.raw(),
                                   .mean = mean.raw(),
                                   .rstd = rstd.raw()},
                all);
  return call(kernels::LayerNormGrad{.dtype = DType::f32,
                                     .rows = rows,
                                     .cols = cols,
                                     .x = x.raw(),
                                     .weight = weight.raw(),
                                     .mean = mean.raw(),
                                     .rstd = rstd.raw(),
                                     .dy = y.raw(),
                                     .dx = dx.raw(),
                                     .dweight = dweight.raw(),
                                     .dbias = dbias.raw()},
              all);
}

Call gelu(const Case& c) {
  const std::int64_t n = c.sizes.at(0) * c.sizes.at(1);
  const int op = kernels::unary_id<kernels::GeluTanh>;
  const Tensor x = numbers({n}), y = numbers({n}), dx = numbers({n});
  if (c.kernel == "gelu")
    return call(
        kernels::Unary{.op = op, .dtype = DType::f32, .space = {1, {n}, {{1}, {1}}}, .x = x.raw(), .y = y.raw()},
        {x, y});
  return call(kernels::UnaryGrad{.op = op,
                                 .dtype = DType::f32,
                                 .space = {1, {n}, {{1}, {1}, {1}}},
                                 .dy = y.raw(),
                                 .saved = x.raw(),
                                 .dx = dx.raw()},
              {x, y, dx});
}

// Loss and gradient, as an op: how the two share their work is its own affair. A leaf that has no gradient yet takes it
// over, as the peer's does.
Call cross_entropy(const Case& c) {
  const Tensor logits = numbers({c.sizes.at(0), c.sizes.at(1)});
  const Tensor classes = randint(0, c.sizes.at(1), {c.sizes.at(0)});
  return [=] {
    const Tensor leaf = logits.detach().set_requires_grad();
    anneal::cross_entropy(leaf, classes).backward();
  };
}

// A whole step, over an arena: the distances of its blocks are part of its speed.
Call adamw(const Case& c) {
  const Tensor weight = numbers({c.sizes.at(0)}).set_requires_grad();
  const auto optimizer = std::make_shared<optim::AdamW>(std::vector<NamedTensor>{{"weight", weight}});
  sum(weight * numbers({c.sizes.at(0)})).backward();
  return [=] { optimizer->step(); };
}

const std::map<std::string, Call (*)(const Case&)> makers = {
    {"gemm_nn", gemm},
    {"gemm_nt", gemm},
    {"gemm_tn", gemm},
    {"gemm_tt", gemm},
    {"conv", conv},
    {"conv_input_grad", conv},
    {"conv_weight_grad", conv},
    {"attention", attention},
    {"attention_grad", attention},
    {"layer_norm", layer_norm},
    {"layer_norm_grad", layer_norm},
    {"gelu", gelu},
    {"gelu_grad", gelu},
    {"cross_entropy_and_grad", cross_entropy},
    {"adamw", adamw},
};

}  // namespace

int main(int argc, char** argv) {
  const auto make = [](const Case& c) { return makers.contains(c.kernel) ? makers.at(c.kernel)(c) : Call{}; };
  return bench::answer_rounds(argc, argv, make, set_num_threads);
}
