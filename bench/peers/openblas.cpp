// OpenBLAS's side of `scripts/bench kernels` (see rounds.h): f32 matrix products.
#include <anneal/bench/rounds.h>
#include <cblas.h>

using anneal::Tensor;

int main(int argc, char** argv) {
  const auto make = [](const bench::Case& c) -> bench::Call {
    if (!c.kernel.starts_with("gemm_") || c.dtype != "f32") return {};
    const bench::Product p(c);
    const Tensor a = bench::numbers({p.m * p.k}), b = bench::numbers({p.k * p.n}), y = bench::numbers({p.m * p.n});
    const auto transposed = [](bool yes) { return yes ? CblasTrans : CblasNoTrans; };
    return [=] {
      cblas_sgemm(CblasRowMajor, transposed(p.trans_a), transposed(p.trans_b), static_cast<int>(p.m),
                  static_cast<int>(p.n), static_cast<int>(p.k), 1, a.data<float>(), static_cast<int>(p.lda()),
                  b.data<float>(), static_cast<int>(p.ldb()), 0, y.data<float>(), static_cast<int>(p.n));
    };
  };
  return bench::answer_rounds(argc, argv, make, openblas_set_num_threads);
}
