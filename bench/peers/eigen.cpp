// Eigen's side of `scripts/bench kernels` (see rounds.h): f32 matrix products.
#include <anneal/bench/rounds.h>

#include <Eigen/Core>

using anneal::Tensor;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main(int argc, char** argv) {
  const auto make = [](const bench::Case& c) -> bench::Call {
    if (!c.kernel.starts_with("gemm_") || c.dtype != "f32") return {};
    const bench::Product p(c);
    const Tensor x = bench::numbers({p.m * p.k}), y = bench::numbers({p.k * p.n}), z = bench::numbers({p.m * p.n});
    return [=] {
      const Eigen::Map<const Matrix> a(x.data<float>(), p.trans_a ? p.k : p.m, p.lda());
      const Eigen::Map<const Matrix> b(y.data<float>(), p.trans_b ? p.n : p.k, p.ldb());
      Eigen::Map<Matrix> product(z.data<float>(), p.m, p.n);
      if (p.trans_a && p.trans_b) product.noalias() = a.transpose() * b.transpose();
      else if (p.trans_a) product.noalias() = a.transpose() * b;
      else if (p.trans_b) product.noalias() = a * b.transpose();
      else product.noalias() = a * b;
    };
  };
  return bench::answer_rounds(argc, argv, make, Eigen::setNbThreads);
}
