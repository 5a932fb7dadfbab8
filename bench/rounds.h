// What every side of `scripts/bench kernels` written in C++ shares: it is asked for rounds of a case, by lines on
// standard input such as "gemm_nt f32 64 512 784", and answers each with the seconds of a call, or "-" if it has no
// such kernel. bench/kernels.py asks; the sides are ours (bench/kernels.cpp), the probes and the peers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "anneal/core/tensor.h"

namespace bench {

/// A kernel by name, its dtype, and sizes that mean what the kernel takes them for.
struct Case {
  std::string kernel;
  std::string dtype;
  std::vector<std::int64_t> sizes;
};

/// gemm_nn, _nt, _tn, _tt m n k: C [m, n] = op(A) op(B), all dense and of one dtype.
struct Product {
  bool trans_a, trans_b;
  std::int64_t m, n, k;
  explicit Product(const Case& c)
      : trans_a(c.kernel[5] == 't'),
        trans_b(c.kernel[6] == 't'),
        m(c.sizes.at(0)),
        n(c.sizes.at(1)),
        k(c.sizes.at(2)) {}
  std::int64_t lda() const { return trans_a ? m : k; }
  std::int64_t ldb() const { return trans_b ? k : n; }
};

/// conv, conv_input_grad, conv_weight_grad n c_in h w c_out window stride padding; all is square.
struct Convolution {
  std::int64_t n, c_in, h, w, c_out, window, stride, padding;
  explicit Convolution(const Case& c)
      : n(c.sizes.at(0)),
        c_in(c.sizes.at(1)),
        h(c.sizes.at(2)),
        w(c.sizes.at(3)),
        c_out(c.sizes.at(4)),
        window(c.sizes.at(5)),
        stride(c.sizes.at(6)),
        padding(c.sizes.at(7)) {}
  std::int64_t out_h() const { return (h + 2 * padding - window) / stride + 1; }
  std::int64_t out_w() const { return (w + 2 * padding - window) / stride + 1; }
};

/// Numbers to compute with. (Zeros, or denormals, would be faster or slower than what training sees.)
anneal::Tensor numbers(const anneal::Shape& shape, anneal::DType dtype = anneal::DType::f32);

/// Runs a case once, on data that it holds. Empty: this side does not have it.
using Call = std::function<void()>;

double seconds_of(const Call& call);

/// The `main` of a side. Options: --threads N, given to `set_threads`, and --seconds S, the length of a round.
int answer_rounds(int argc, char** argv, const std::function<Call(const Case&)>& make,
                  const std::function<void(int)>& set_threads);

}  // namespace bench
