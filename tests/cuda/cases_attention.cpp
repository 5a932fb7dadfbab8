#include "anneal/tests/cuda/cases.h"

namespace anneal::gpu_check {

using namespace kernels;

namespace {

struct Form {
  const char* name;
  bool causal;
  enum { none, boolean, added } mask;
  double dropout;
};

HeadStrides strides(std::int64_t rows, std::int64_t heads, std::int64_t depth) {
  return {rows * heads * depth, depth, heads * depth};
}

AttentionInputs inputs_of(Maker& m, const Form& form) {
  AttentionInputs a{.dtype = m.dtype(),
                    .batch = m.pick(1, 2, 2, 3, 8),
                    .heads = m.pick(2, 4, 4, 6, 12),
                    .group = 2,
                    .queries = m.pick(3, 19, 64, 131, 256),
                    .keys = m.pick(5, 35, 64, 131, 256),
                    .depth = m.pick(2, 7, 32, 64, 64),
                    .value_depth = m.pick(3, 9, 32, 64, 64),
                    .scale = 0.2,
                    .causal = form.causal,
                    .q = nullptr,
                    .k = nullptr,
                    .v = nullptr,
                    .q_strides = {},
                    .k_strides = {},
                    .v_strides = {},
                    .mask = nullptr,
                    .mask_dtype = form.mask == Form::boolean ? DType::boolean : m.dtype(),
                    .mask_strides = {},
                    .dropout = form.dropout,
                    .seed = 5,
                    .offset = 8};
  a.q = m.input(a.batch * a.queries * a.heads * a.depth);
  a.k = m.input(a.batch * a.keys * a.kv_heads() * a.depth);
  a.v = m.input(a.batch * a.keys * a.kv_heads() * a.value_depth);
  a.q_strides = strides(a.queries, a.heads, a.depth);
  a.k_strides = strides(a.keys, a.kv_heads(), a.depth);
  a.v_strides = strides(a.keys, a.kv_heads(), a.value_depth);
  if (form.mask != Form::none) {
    a.mask = form.mask == Form::boolean ? m.input(a.queries * a.keys, {-1, 2}, {Kind::fixed, DType::boolean})
                                        : m.input(a.queries * a.keys);
    a.mask_strides[2] = a.keys;
    a.mask_strides[3] = 1;
  }
  return a;
}
/// Elements of the result.
std::int64_t size_of_result(const AttentionInputs& a) { return a.batch * a.queries * a.heads * a.value_depth; }

}  // namespace

void add_attention(Cases& all) {
  for (const Form& form :
       {Form{"", false, Form::none, 0}, Form{" causal", true, Form::none, 0}, Form{" masked", false, Form::boolean, 0},
        Form{" masked and dropped", true, Form::added, 0.3}}) {
    const bool timed = form.causal && form.mask == Form::none;
    all.add(std::string("attention") + form.name,
            [=](Maker& m) {
              const AttentionInputs a = inputs_of(m, form);
              void* const out = m.output(size_of_result(a));
              return Attention{a, out, strides(a.queries, a.heads, a.value_depth),
                               m.output(a.batch * a.heads * a.queries, wide)};
            })
        .timed = timed;
    Case& grad = all.add(std::string("attention grad") + form.name, [=](Maker& m) {
      // Any result will do, and an lse that keeps the weights small.
      const AttentionInputs a = inputs_of(m, form);
      const void* const out = m.input(size_of_result(a));
      const void* const dout = m.input(size_of_result(a));
      const void* const lse = m.input(a.batch * a.heads * a.queries, {7, 8}, wide);
      void* const dq = m.output(a.batch * a.queries * a.heads * a.depth);
      void* const dk = m.output(a.batch * a.keys * a.kv_heads() * a.depth);
      void* const dv = m.output(a.batch * a.keys * a.kv_heads() * a.value_depth);
      const HeadStrides out_strides = strides(a.queries, a.heads, a.value_depth);
      return AttentionGrad{a,  out, dout, out_strides, out_strides, lse,
                           dq, dk,  dv,   a.q_strides, a.k_strides, a.v_strides};
    });
    grad.timed = timed;
    grad.tolerance = 4;
  }
}

}  // namespace anneal::gpu_check
