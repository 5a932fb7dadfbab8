// Matrix products by cuBLASLt. The first algorithm of its heuristics is used, without trials, so that results are the
// same bits in every run.
#include <array>
#include <optional>
#include <stdexcept>

#include "anneal/kernels/cuda/check.h"
#include "anneal/kernels/cuda/epilogue.h"
#include "anneal/kernels/cuda/gemm_layout.h"
#include "anneal/kernels/cuda/plan_cache.h"
#include "anneal/kernels/cuda/runtime.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {
namespace {

constexpr std::size_t workspace_limit = std::size_t{32} << 20;

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDA_R_64F;
    case DType::f16: return CUDA_R_16F;
    case DType::bf16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}

class Layout {
 public:
  Layout(DType dtype, const MatrixLayout& m, std::int64_t batch) {
    check(cublasLtMatrixLayoutCreate(&handle_, type_of(dtype), static_cast<std::uint64_t>(m.rows),
                                     static_cast<std::uint64_t>(m.cols), m.ld),
          "cublasLtMatrixLayoutCreate");
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.stride);
  }
  Layout(Layout&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Layout& operator=(Layout&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Layout() {
    if (handle_) cublasLtMatrixLayoutDestroy(handle_);
  }
  cublasLtMatrixLayout_t get() const { return handle_; }

 private:
  template <class V>
  void set(cublasLtMatrixLayoutAttribute_t name, const V& value) {
    check(cublasLtMatrixLayoutSetAttribute(handle_, name, &value, sizeof value), "cublasLtMatrixLayoutSetAttribute");
  }

  cublasLtMatrixLayout_t handle_ = nullptr;
};

/// What is done with the operands. It has the bias' address in it, so it is made for each call.
class Operation {
 public:
  Operation(const Gemm& g, bool tf32, bool fused) {
    const cublasComputeType_t compute = g.dtype == DType::f64           ? CUBLAS_COMPUTE_64F
                                        : g.dtype == DType::f32 && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                        : CUBLAS_COMPUTE_32F;
    check(cublasLtMatmulDescInit(&description_, compute, g.dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F),
          "cublasLtMatmulDescInit");
    const ColumnMajorGemm view = column_major(g);
    set(CUBLASLT_MATMUL_DESC_TRANSA, view.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, view.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (!fused) return;
    const bool relu = g.activation == Activation::relu;
    if (relu || g.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, !g.bias ? CUBLASLT_EPILOGUE_RELU
                                         : relu  ? CUBLASLT_EPILOGUE_RELU_BIAS
                                                 : CUBLASLT_EPILOGUE_BIAS);
    }
    if (g.bias) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(g.out));
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    }
  }
  cublasLtMatmulDesc_t get() { return &description_; }

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t name, const V& value) {
    check(cublasLtMatmulDescSetAttribute(&description_, name, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }

  cublasLtMatmulDescOpaque_t description_;
};

class Preference {
 public:
  Preference() { check(cublasLtMatmulPreferenceInit(&description_), "cublasLtMatmulPreferenceInit"); }
  template <class V>
  void set(cublasLtMatmulPreferenceAttributes_t name, const V& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&description_, name, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  }
  cublasLtMatmulPreference_t get() { return &description_; }

 private:
  cublasLtMatmulPreferenceOpaque_t description_;
};

/// Handles and plans live as long as the process: at exit the driver may be gone before them.
cublasLtHandle_t handle_of(int device) {
  static std::mutex& mutex = *new std::mutex;
  static std::map<int, cublasLtHandle_t>& handles = *new std::map<int, cublasLtHandle_t>;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (!handle) {
    set_device(device);  // says what is missing, if the device is
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate");
    handle = made;
  }
  return handle;
}

struct Plan {
  Layout a, b, d;
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace;
  bool fused;  // bias and activation are part of it
};

/// What a plan depends on beside the fields of Gemm.
struct Terms {
  std::uint32_t align_a, align_b, align_c;
  bool tf32, fusible;

  explicit Terms(const Gemm& g)
      : align_a(alignment(g.a)),
        align_b(alignment(g.b)),
        align_c(alignment(g.c)),
        tf32(tf32_allowed()),
        fusible(alignment(g.bias) >= 16) {}

 private:
  static std::uint32_t alignment(const void* p) { return static_cast<std::uint32_t>(alignment_of(p, 256)); }
};

std::optional<Plan> make_plan(const Gemm& g, const Terms& terms, bool fused) {
  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_limit);
  // Parts of a sum over k are added in the type that they were computed in.
  preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, terms.align_b);  // operands change places
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, terms.align_a);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, terms.align_c);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, terms.align_c);

  const ColumnMajorGemm view = column_major(g);
  Layout a(g.dtype, view.a, g.batch), b(g.dtype, view.b, g.batch), d(g.out, view.d, g.batch);
  Operation operation(g, terms.tf32, fused);
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_of(current_device()), operation.get(), a.get(), b.get(), d.get(), d.get(),
                                     preference.get(), 1, &best, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) return std::nullopt;
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  return Plan{std::move(a), std::move(b), std::move(d), best.algo, best.workspaceSize, fused};
}

std::shared_ptr<const Plan> find_plan(const Gemm& g, const Terms& terms) {
  const auto key = std::to_array<std::int64_t>({current_device(),
                                                static_cast<int>(g.dtype),
                                                static_cast<int>(g.out),
                                                g.trans_a,
                                                g.trans_b,
                                                g.m,
                                                g.n,
                                                g.k,
                                                g.lda,
                                                g.ldb,
                                                g.ldc,
                                                g.batch,
                                                g.stride_a,
                                                g.stride_b,
                                                g.stride_c,
                                                g.bias != nullptr,
                                                static_cast<int>(g.activation),
                                                g.accumulate,
                                                terms.align_a,
                                                terms.align_b,
                                                terms.align_c,
                                                terms.tf32,
                                                terms.fusible});
  static auto& cache = *new PlanCache<std::remove_const_t<decltype(key)>, Plan>;
  return cache.find(key, [&] {
    std::optional<Plan> plan;
    if (terms.fusible) plan = make_plan(g, terms, true);
    if (!plan) plan = make_plan(g, terms, false);
    if (!plan)
      throw std::runtime_error("cuBLASLt has no algorithm for a product [" + std::to_string(g.m) + ", " +
                               std::to_string(g.k) + "] x [" + std::to_string(g.k) + ", " + std::to_string(g.n) +
                               "] of " + name_of(g.dtype) + " to " + name_of(g.out));
    return std::move(*plan);
  });
}

/// All elements of C, and the bias over them, or another matrix like C.
Space<2> space_of(const Gemm& g, bool with_bias) {
  const std::int64_t other = with_bias ? 0 : 1;
  return {.rank = 3,
          .size = {g.batch, g.m, g.n},
          .stride = {{g.stride_c, g.ldc, 1}, {other * g.stride_c, other * g.ldc, 1}}};
}

}  // namespace

template <>
void run(const Gemm& g, Stream stream) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (g.activation == Activation::gelu) {  // cuBLASLt has the approximation alone
    Gemm plain = g;
    plain.activation = Activation::none;
    if (g.saved) plain.c = g.saved;
    run(plain, stream);
    return run(Unary{unary_id<Gelu>, g.out, space_of(g, false), plain.c, g.c}, stream);
  }
  const bool relu = g.activation == Activation::relu;
  if (g.k == 0) {
    if (g.accumulate) return;
    run(Fill{g.out, {.rank = 3, .size = {g.batch, g.m, g.n}, .stride = {{g.stride_c, g.ldc, 1}}}, 0.0, g.c}, stream);
    return epilogue(g.out, space_of(g, true), g.c, g.bias, relu, stream);
  }
  const Terms terms(g);
  const std::shared_ptr<const Plan> plan = find_plan(g, terms);
  const float one = 1, beta = g.accumulate ? 1 : 0;
  const double one_f64 = one, beta_f64 = beta;
  const bool f64 = g.dtype == DType::f64;
  const ColumnMajorGemm view = column_major(g);
  check(cublasLtMatmul(handle_of(current_device()), Operation(g, terms.tf32, plan->fused).get(),
                       f64 ? static_cast<const void*>(&one_f64) : &one, view.a_data, plan->a.get(), view.b_data,
                       plan->b.get(), f64 ? static_cast<const void*>(&beta_f64) : &beta, g.c, plan->d.get(), g.c,
                       plan->d.get(), &plan->algorithm, workspace(stream, plan->workspace), plan->workspace,
                       static_cast<cudaStream_t>(stream.handle)),
        "cublasLtMatmul");
  if (!plan->fused) epilogue(g.out, space_of(g, true), g.c, g.bias, relu, stream);
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
