// oneDNN's side of `scripts/bench kernels` (see rounds.h): matrix products, and convolutions in the layouts that it
// likes best, which are not converted from and to others in the time that counts.
#include <anneal/bench/rounds.h>
#include <omp.h>

#include <dnnl.hpp>
#include <memory>
#include <unordered_map>

using bench::Call;
using bench::Case;
using Dims = dnnl::memory::dims;
using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

namespace {

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// Memory of a layout, filled with numbers; the tensor that owns it is kept with it.
struct Operand {
  anneal::Tensor tensor;
  dnnl::memory memory;
  explicit Operand(const dnnl::memory::desc& layout)
      : tensor(numbers_of(layout)), memory(layout, engine(), tensor.raw()) {}

  static anneal::Tensor numbers_of(const dnnl::memory::desc& layout) {
    const anneal::DType dtype = layout.data_type() == Type::bf16 ? anneal::DType::bf16 : anneal::DType::f32;
    return bench::numbers({static_cast<std::int64_t>(layout.get_size() / anneal::size_of(dtype))}, dtype);
  }
};

Call call(const dnnl::primitive& primitive, const std::unordered_map<int, Operand>& operands) {
  std::unordered_map<int, dnnl::memory> arguments;
  for (const auto& [name, operand] : operands) arguments.emplace(name, operand.memory);
  return [primitive, operands, arguments, stream = dnnl::stream(engine())]() mutable {
    primitive.execute(stream, arguments);
    stream.wait();
  };
}

Call product(const Case& c, Type type) {
  const bench::Product p(c);
  const dnnl::memory::desc a({p.m, p.k}, type, p.trans_a ? Tag::ba : Tag::ab);
  const dnnl::memory::desc b({p.k, p.n}, type, p.trans_b ? Tag::ba : Tag::ab);
  const dnnl::memory::desc y({p.m, p.n}, type, Tag::ab);
  const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(a, b, y), engine());
  return call(dnnl::matmul(chosen),
              {{DNNL_ARG_SRC, Operand(a)}, {DNNL_ARG_WEIGHTS, Operand(b)}, {DNNL_ARG_DST, Operand(y)}});
}

Call convolution(const Case& c, Type type) {
  const bench::Convolution p(c);
  const auto any = [&](const Dims& dims) { return dnnl::memory::desc(dims, type, Tag::any); };
  const auto x = any({p.n, p.c_in, p.h, p.w});
  const auto weight = any({p.c_out, p.c_in, p.window, p.window});
  const auto y = any({p.n, p.c_out, p.out_h(), p.out_w()});
  const Dims strides{p.stride, p.stride}, padding{p.padding, p.padding};
  const auto direct = dnnl::algorithm::convolution_direct;
  const dnnl::convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, x, weight, y, strides, padding, padding}, engine());
  if (c.kernel == "conv")
    return call(dnnl::convolution_forward(forward), {{DNNL_ARG_SRC, Operand(forward.src_desc())},
                                                     {DNNL_ARG_WEIGHTS, Operand(forward.weights_desc())},
                                                     {DNNL_ARG_DST, Operand(forward.dst_desc())}});
  if (c.kernel == "conv_input_grad") {
    const dnnl::convolution_backward_data::primitive_desc chosen({direct, x, weight, y, strides, padding, padding},
                                                                 engine(), forward);
    return call(dnnl::convolution_backward_data(chosen), {{DNNL_ARG_DIFF_SRC, Operand(chosen.diff_src_desc())},
                                                          {DNNL_ARG_WEIGHTS, Operand(chosen.weights_desc())},
                                                          {DNNL_ARG_DIFF_DST, Operand(chosen.diff_dst_desc())}});
  }
  const dnnl::convolution_backward_weights::primitive_desc chosen({direct, x, weight, y, strides, padding, padding},
                                                                  engine(), forward);
  return call(dnnl::convolution_backward_weights(chosen), {{DNNL_ARG_SRC, Operand(chosen.src_desc())},
                                                           {DNNL_ARG_DIFF_WEIGHTS, Operand(chosen.diff_weights_desc())},
                                                           {DNNL_ARG_DIFF_DST, Operand(chosen.diff_dst_desc())}});
}

Call make(const Case& c) {
  if (c.dtype != "f32" && c.dtype != "bf16") return {};
  const Type type = c.dtype == "f32" ? Type::f32 : Type::bf16;
  if (c.kernel.starts_with("gemm_")) return product(c, type);
  if (c.kernel.starts_with("conv")) return convolution(c, type);
  return {};
}

}  // namespace

int main(int argc, char** argv) { return bench::answer_rounds(argc, argv, make, omp_set_num_threads); }
