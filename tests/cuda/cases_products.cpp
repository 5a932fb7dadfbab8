#include "anneal/tests/cuda/cases.h"

namespace anneal::gpu_check {

using namespace kernels;

void add_products(Cases& all) {
  struct Form {
    const char* name;
    bool bias, relu, accumulate, wide;
    std::int64_t batch, gap;
    bool gelu = false;
  };
  for (const Form f :
       {Form{"", false, false, false, false, 1, 0}, Form{" bias", true, false, false, false, 1, 0},
        Form{" bias relu", true, true, false, false, 1, 3}, Form{" relu", false, true, false, false, 1, 0},
        Form{" accumulate", false, false, true, false, 1, 0}, Form{" to f32", true, false, false, true, 1, 0},
        Form{" to f32 accumulate", false, false, true, true, 1, 0}, Form{" batch", true, false, false, false, 3, 1},
        Form{" bias gelu", true, false, false, false, 2, 1, true}}) {
    for (int transposes = 0; transposes < 4; ++transposes) {
      const bool trans_a = transposes & 1, trans_b = transposes & 2;
      const std::string form = std::string(trans_a ? "T" : "N") + (trans_b ? "T" : "N");
      all.add("gemm " + form + f.name,
              [=](Maker& m) {
                const auto rows = m.pick(3, 33, 136, 1000, 8192), cols = m.pick(5, 65, 264, 700, 8192),
                           depth = m.pick(7, 127, 408, 1029, 8192);
                const auto lda = (trans_a ? rows : depth) + f.gap, ldb = (trans_b ? depth : cols) + f.gap,
                           ldc = cols + f.gap;
                const auto size_a = (trans_a ? depth : rows) * lda, size_b = (trans_b ? cols : depth) * ldb,
                           size_c = rows * ldc;
                const Kind out = f.wide ? wide : element;
                m.set_flops(2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(depth));
                return Gemm{m.dtype(), f.wide ? m.wide() : m.dtype(), trans_a, trans_b, rows, cols, depth, lda, ldb,
                            ldc, f.batch, size_a, size_b, size_c, m.input(f.batch * size_a, {-1, 1}),
                            m.input(f.batch * size_b, {-1, 1}),
                            // What lies between rows stays as it was.
                            f.gap > 0 || f.accumulate ? m.in_out(f.batch * size_c, {-1, 1}, out)
                                                      : m.output(f.batch * size_c, out),
                            f.bias ? m.input(cols, {-1, 1}, out) : nullptr,
                            f.relu   ? Activation::relu
                            : f.gelu ? Activation::gelu
                                     : Activation::none,
                            f.accumulate, f.gelu ? m.in_out(f.batch * size_c, {-1, 1}, out) : nullptr};
              })
          .timed = std::string(f.name).empty() || (transposes == 2 && f.bias && f.relu);
    }
  }
  all.add("gemm with k = 0", [](Maker& m) {
    const auto rows = rows_of(m), cols = m.pick(5, 131, 256, 512, 512);
    return Gemm{m.dtype(),
                m.dtype(),
                false,
                false,
                rows,
                cols,
                0,
                1,
                cols,
                cols,
                1,
                0,
                0,
                0,
                m.input(1),
                m.input(1),
                m.output(rows * cols),
                m.input(cols),
                Activation::relu,
                false};
  });
}

void add_convolutions(Cases& all) {
  struct Form {
    const char* name;
    ConvShape small;
    bool timed;
  };
  const auto timed_shape = [](std::string_view name) {
    return name == " demo 1"   ? ConvShape{64, 1, 28, 28, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}
           : name == " demo 2" ? ConvShape{64, 32, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}
                               : ConvShape{256, 64, 56, 56, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  };
  for (const Form& f : {Form{" demo 1", {5, 1, 28, 28, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, true},
                        Form{" demo 2", {3, 32, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, true},
                        Form{" 3x3", {2, 3, 7, 9, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1}, true},
                        Form{" groups", {2, 4, 11, 10, 6, 3, 3, 2, 2, 1, 1, 1, 1, 2}, false},
                        Form{" depthwise", {1, 8, 9, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 8}, false},
                        Form{" strides and dilation", {2, 6, 13, 17, 7, 5, 4, 3, 2, 2, 3, 1, 2, 1}, false},
                        Form{" wide padding", {2, 3, 6, 6, 3, 3, 3, 1, 1, 4, 3, 1, 1, 1}, false},
                        Form{" pointwise", {3, 4, 8, 8, 6, 1, 1, 1, 1, 0, 0, 1, 1, 1}, false}}) {
    const std::string name = f.name;
    const auto shape_of = [=](Maker& m) {
      ConvShape s = m.size() == Size::bench ? timed_shape(name) : f.small;
      if (m.size() == Size::large) s.n *= 16;
      m.set_flops(2.0 * static_cast<double>(s.n * s.c_out * s.out_h() * s.out_w() * (s.c_in / s.groups)) *
                  static_cast<double>(s.kernel_h * s.kernel_w));
      return s;
    };
    const auto x_size = [](const ConvShape& s) { return s.n * s.c_in * s.h * s.w; };
    const auto y_size = [](const ConvShape& s) { return s.n * s.c_out * s.out_h() * s.out_w(); };
    const auto w_size = [](const ConvShape& s) { return s.c_out * (s.c_in / s.groups) * s.kernel_h * s.kernel_w; };
    for (const int extra : {0, 1, 2, 3}) {
      const bool bias = extra & 1, relu = extra & 2;
      all.add("conv" + name + (bias ? " bias" : "") + (relu ? " relu" : ""),
              [=](Maker& m) {
                const ConvShape s = shape_of(m);
                return Conv2d{m.dtype(),
                              s,
                              m.input(x_size(s), {-1, 1}),
                              m.input(w_size(s), {-1, 1}),
                              bias ? m.input(s.c_out) : nullptr,
                              m.output(y_size(s)),
                              relu ? Activation::relu : Activation::none};
              })
          .timed = f.timed && extra == 1;
    }
    all.add("conv input grad" + name,
            [=](Maker& m) {
              const ConvShape s = shape_of(m);
              return Conv2dInputGrad{m.dtype(), s, m.input(y_size(s), {-1, 1}), m.input(w_size(s), {-1, 1}),
                                     m.output(x_size(s))};
            })
        .timed = f.timed;
    for (const bool accumulate : {false, true}) {
      for (const Kind out : {element, wide}) {
        Case& made = all.add(
            "conv weight grad" + name + (accumulate ? " accumulate" : "") + (out.of == Kind::wide ? " to f32" : ""),
            [=](Maker& m) {
              const ConvShape s = shape_of(m);
              const void* dy = m.input(y_size(s), {-1, 1});
              const void* x = m.input(x_size(s), {-1, 1});
              return Conv2dWeightGrad{
                  m.dtype(), out.of == Kind::wide ? m.wide() : m.dtype(),
                  s,         dy,
                  x,         accumulate ? m.in_out(w_size(s), {-1, 1}, out) : m.output(w_size(s), out),
                  accumulate};
            });
        made.timed = f.timed && !accumulate;
        // Long sums; cuDNN rounds to 16 bits before the result is widened.
        made.tolerance = out.of == Kind::wide ? 1000 : 4;
      }
    }
  }
}

}  // namespace anneal::gpu_check
