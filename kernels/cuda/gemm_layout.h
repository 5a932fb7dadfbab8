// How a product of row-major matrices is one of column-major matrices. Pure, so that it is tested without a device.
#pragma once

#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {

/// A batch of matrices as cuBLASLt sees them: element (i, j) of number b is at `b * stride + j * ld + i`.
struct MatrixLayout {
  std::int64_t rows, cols, ld, stride;
};
/// D = op(A) op(B), column-major; `bias` has one element a row of D.
struct ColumnMajorGemm {
  bool trans_a, trans_b;
  MatrixLayout a, b, d;
  const void *a_data, *b_data;
};

/// A row-major matrix read as column-major is its transpose, so C^T = op(B)^T op(A)^T: the operands change places and
/// keep their flags.
constexpr ColumnMajorGemm column_major(const Gemm& g) {
  const auto transpose_of = [](bool transposed, std::int64_t rows, std::int64_t cols, std::int64_t ld,
                               std::int64_t stride) {
    return transposed ? MatrixLayout{rows, cols, ld, stride} : MatrixLayout{cols, rows, ld, stride};
  };
  return {g.trans_b,
          g.trans_a,
          transpose_of(g.trans_b, g.k, g.n, g.ldb, g.stride_b),
          transpose_of(g.trans_a, g.m, g.k, g.lda, g.stride_a),
          {g.n, g.m, g.ldc, g.stride_c},
          g.b,
          g.a};
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
