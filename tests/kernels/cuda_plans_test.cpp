// What of the CUDA backend can be tested without a device: which convolutions cuDNN has plans for, how matrix products
// are mapped, and what is said where there is no device. Built where CUDA is.
//
// The plans are made for fixtures/h200_device.json, which is written by hand from public figures of an H200 (the
// clocks, the driver and the PCI number are guesses); `gpu_check` prints a real device's. None of the graphs here needs
// the driver: their engines are compiled ahead. Those that cuDNN compiles at run time (fused attention, normalisation)
// do.
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <iterator>
#include <numeric>
#include <vector>

#include "anneal/kernels/cuda/conv_plans.h"
#include "anneal/kernels/cuda/gemm_layout.h"
#include "anneal/kernels/cuda/plan_cache.h"
#include "anneal/kernels/cuda/runtime.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

void PrintTo(const ConvShape& s, std::ostream* out) {
  *out << "input " << s.n << "x" << s.c_in << "x" << s.h << "x" << s.w << " weight " << s.c_out << "x"
       << s.c_in / s.groups << "x" << s.kernel_h << "x" << s.kernel_w;
}

}  // namespace kernels
}  // namespace v0

namespace {

using kernels::Activation;
using kernels::ConvShape;
using kernels::Gemm;
using kernels::cuda::ConvGraph;
namespace cudnn = kernels::cuda::cudnn;

const cudnn::Target& h200() {
  static const cudnn::Target target = [] {
    std::ifstream file(ANNEAL_FIXTURES "/h200_device.json");
    return cudnn::Target::described({std::istreambuf_iterator<char>(file), {}});
  }();
  return target;
}

// ---- convolutions ----

class ConvPlans : public testing::TestWithParam<ConvShape> {};

TEST_P(ConvPlans, ExistForEveryDtypeAndDirection) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    for (const std::int64_t align : {std::int64_t{16}, size}) {
      for (const bool tf32 : {false, true}) {
        using enum cudnn::Direction;
        const auto graph = [&](cudnn::Direction direction, bool bias = false, bool relu = false) {
          return ConvGraph{direction, dtype, GetParam(), align, align, align, align, bias, relu, tf32};
        };
        for (const ConvGraph& g : {graph(forward), graph(forward, true), graph(forward, true, true), graph(input_grad),
                                   graph(weight_grad)}) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << " direction " << static_cast<int>(g.direction)
                                          << " align " << align << " bias " << g.has_bias << " relu " << g.relu);
          const auto plan = kernels::cuda::plan(g, h200());
          ASSERT_TRUE(plan.has_value());
          EXPECT_LE(plan->workspace_bytes(), std::int64_t{256} << 20);
        }
      }
    }
  }
}

// n, c_in, h, w, c_out, kernel, stride, padding, dilation, groups
INSTANTIATE_TEST_SUITE_P(Kernels, ConvPlans,
                         testing::Values(ConvShape{64, 1, 28, 28, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},  // the demo's layers
                                         ConvShape{64, 32, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1},
                                         ConvShape{2, 3, 7, 9, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1},     // odd everything
                                         ConvShape{1, 2, 1, 1, 3, 1, 1, 1, 1, 0, 0, 1, 1, 1},     // one pixel
                                         ConvShape{2, 4, 11, 10, 6, 3, 3, 2, 2, 1, 1, 1, 1, 2},   // stride 2, groups
                                         ConvShape{1, 8, 9, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 8},     // depthwise
                                         ConvShape{2, 6, 13, 17, 70, 5, 4, 3, 2, 2, 3, 1, 2, 1},  // stride and dilation
                                         ConvShape{2, 3, 9, 9, 4, 3, 2, 2, 2, 2, 1, 2, 3, 1},     // both ways, both 2
                                         ConvShape{2, 3, 12, 40, 9, 3, 3, 3, 4, 1, 1, 1, 1, 1},   // stride above kernel
                                         ConvShape{2, 3, 6, 6, 3, 3, 3, 1, 1, 4, 3, 1, 1, 1},  // padding above kernel
                                         ConvShape{16, 3, 224, 224, 64, 7, 7, 2, 2, 3, 3, 1, 1, 1}  // an ImageNet stem
                                         ));

// The reason why conv.cpp converts gradients itself.
TEST(ConvPlans, DoNotExistForF32GradientsOfHalves) {
  for (const cudnnDataType_t type : {CUDNN_DATA_HALF, CUDNN_DATA_BFLOAT16}) {
    cudnn::Graph graph;
    graph.convolution(cudnn::Direction::weight_grad, {1, type, {8, 16, 14, 14}, 16},
                      {2, CUDNN_DATA_FLOAT, {32, 16, 3, 3}, 16}, {3, type, {8, 32, 14, 14}, 16},
                      {{1, 1}, {1, 1}, {1, 1}, CUDNN_DATA_FLOAT});
    EXPECT_FALSE(graph.plan(h200(), {}).has_value());
  }
}

TEST(ConvPlans, AreKeyedByAllThatTheyDependOn) {
  const ConvGraph g{cudnn::Direction::forward,
                    DType::f32,
                    {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14},
                    1,
                    2,
                    4,
                    8,
                    false,
                    false,
                    false};
  std::vector<ConvGraph> others(9, g);
  others[0].direction = cudnn::Direction::input_grad;
  others[1].dtype = DType::f64;
  others[2].align_x = others[3].align_weight = others[4].align_y = others[5].align_bias = 16;
  others[6].has_bias = others[7].relu = others[8].tf32 = true;
  for (std::int64_t ConvShape::*field :
       {&ConvShape::n, &ConvShape::c_in, &ConvShape::h, &ConvShape::w, &ConvShape::c_out, &ConvShape::kernel_h,
        &ConvShape::kernel_w, &ConvShape::stride_h, &ConvShape::stride_w, &ConvShape::padding_h, &ConvShape::padding_w,
        &ConvShape::dilation_h, &ConvShape::dilation_w, &ConvShape::groups}) {
    others.push_back(g);
    others.back().shape.*field += 100;
  }
  for (const ConvGraph& other : others) EXPECT_NE(other.key(), g.key());
}

// ---- matrix products ----

// What cublasLtMatmul's documentation says, in plain loops.
std::vector<double> column_major_product(const kernels::cuda::ColumnMajorGemm& g, std::int64_t batch, std::int64_t k,
                                         const double* bias, std::vector<double> d) {
  const auto at = [](const void* data, const kernels::cuda::MatrixLayout& m, std::int64_t b, std::int64_t i,
                     std::int64_t j) {
    EXPECT_LT(i, m.rows);
    EXPECT_LT(j, m.cols);
    return static_cast<const double*>(data)[b * m.stride + j * m.ld + i];
  };
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t j = 0; j < g.d.cols; ++j) {
      for (std::int64_t i = 0; i < g.d.rows; ++i) {
        double sum = bias ? bias[i] : 0;
        for (std::int64_t p = 0; p < k; ++p) {
          sum += (g.trans_a ? at(g.a_data, g.a, b, p, i) : at(g.a_data, g.a, b, i, p)) *
                 (g.trans_b ? at(g.b_data, g.b, b, j, p) : at(g.b_data, g.b, b, p, j));
        }
        d[static_cast<std::size_t>(b * g.d.stride + j * g.d.ld + i)] = sum;
      }
    }
  }
  return d;
}

TEST(GemmLayout, GivesTheRowMajorProduct) {
  constexpr std::int64_t m = 3, n = 5, k = 7, batch = 2, gap = 4;
  for (int transposes = 0; transposes < 4; ++transposes) {
    const bool trans_a = transposes & 1, trans_b = transposes & 2;
    const std::int64_t lda = (trans_a ? m : k) + gap, ldb = (trans_b ? k : n) + gap, ldc = n + gap;
    const std::int64_t size_a = (trans_a ? k : m) * lda, size_b = (trans_b ? n : k) * ldb, size_c = m * ldc;
    std::vector<double> a(batch * size_a), b(batch * size_b), bias(n), c(batch * size_c, -1);
    std::iota(a.begin(), a.end(), 1);
    std::iota(b.begin(), b.end(), 1000);
    std::iota(bias.begin(), bias.end(), 0.5);
    const Gemm g{DType::f64,
                 DType::f64,
                 trans_a,
                 trans_b,
                 m,
                 n,
                 k,
                 lda,
                 ldb,
                 ldc,
                 batch,
                 size_a,
                 size_b,
                 size_c,
                 a.data(),
                 b.data(),
                 c.data(),
                 bias.data(),
                 Activation::none,
                 false};
    std::vector<double> want = c;
    for (std::int64_t s = 0; s < batch; ++s) {
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          double& sum = want[s * size_c + i * ldc + j] = bias[j];
          for (std::int64_t p = 0; p < k; ++p)
            sum += a[s * size_a + (trans_a ? p * lda + i : i * lda + p)] *
                   b[s * size_b + (trans_b ? j * ldb + p : p * ldb + j)];
        }
      }
    }
    EXPECT_EQ(column_major_product(kernels::cuda::column_major(g), batch, k, bias.data(), c), want) << transposes;
  }
}

TEST(Plans, TellAlignmentsApart) {
  const auto alignment = [](std::uintptr_t address) {
    return kernels::cuda::alignment_of(reinterpret_cast<const void*>(address), 16);
  };
  EXPECT_EQ(alignment(0), 16);
  EXPECT_EQ(alignment(4096 + 8), 8);
  EXPECT_EQ(alignment(4096 + 6), 2);
  EXPECT_EQ(alignment(4096 + 48), 16);
}

TEST(Plans, AreMadeOnceForAKey) {
  kernels::cuda::PlanCache<int, int> cache;
  int made = 0;
  const auto find = [&](int key) { return *cache.find(key, [&] { return ++made; }); };
  EXPECT_EQ(find(7), 1);
  EXPECT_EQ(find(8), 2);
  EXPECT_EQ(find(7), 1);
  for (int key = 100; key < 10000; ++key) find(key);  // more than it keeps
  EXPECT_EQ(find(9999), made);
}

// ---- no device ----

template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const std::runtime_error& error) { return error.what(); }
  return "nothing was thrown";
}

TEST(NoDevice, IsSaidByEveryCall) {
  namespace cuda = kernels::cuda;
  if (cuda::device_count() > 0)
    GTEST_SKIP() << "NOT TESTED: this is of machines without a GPU, and there is " << cuda::device_name(0);
  const std::string why = cuda::unavailable();
  EXPECT_NE(why.find("cudaGetDeviceCount: cudaError"), std::string::npos) << why;
  EXPECT_EQ(message_of([] { cuda::set_device(1); }), "cuda:1: " + why);

  const float a[1] = {}, b[1] = {};
  float c[1] = {};
  const Gemm gemm{DType::f32, DType::f32,       false, false, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, a, b, c,
                  nullptr,    Activation::none, false};
  EXPECT_EQ(message_of([&] { cuda::run(gemm, {}); }), "cuda:0: " + why);
  const ConvShape shape{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1};
  EXPECT_EQ(message_of([&] {
              cuda::run(kernels::Conv2d{DType::f32, shape, a, b, nullptr, c, Activation::none}, {});
            }),
            "cuda:0: " + why);
  EXPECT_EQ(message_of([] { cuda::compute_stream(0); }), "cuda:0: " + why);
  for (const std::string& message : {message_of([] { cuda::allocate(1); }), message_of([] { cuda::Event event; }),
                                     message_of([&] { cuda::fill_zero(c, sizeof c, {}); }), message_of([&] {
                                       cuda::run(kernels::Fill{DType::f32, {1, {1}, {{1}}}, 1.0, c}, {});
                                     })}) {
    EXPECT_NE(message.find("cudaError"), std::string::npos) << message;
  }
  EXPECT_EQ(c[0], 0);
  cuda::release(nullptr);
}

}  // namespace
}  // namespace anneal
