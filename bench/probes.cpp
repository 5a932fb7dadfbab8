// What the machine can do, as a side of `scripts/bench kernels` (see rounds.h) that is asked in turn with the kernels:
//
//   fma f32 FLOPS                          multiply-adds in registers
//   dot bf16 FLOPS                         the same with pairs of bf16, where the processor has that
//   stream f32 N UPDATED READ WRITTEN      that many arrays of N elements in one pass, updated in place, read, or
//   written pingpong ns                            a cache line's way to another core and back
//
// The file is compiled for this very machine.
#include <anneal/bench/rounds.h>
#include <anneal/core/error.h>
#include <anneal/kernels/parallel.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <thread>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

using anneal::Tensor;
using bench::Call;
using bench::Case;

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
typedef float Vector __attribute__((vector_size(vector_bytes)));
constexpr int lanes = vector_bytes / 4;
constexpr int chains = 12;  // enough to cover the latency, with registers for two operands

// Keeps a value in a register and the compiler from knowing it.
template <class T>
void opaque(T& value) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(value));
#else
  asm volatile("" : "+w"(value));
#endif
}

// Runs `step(sums, x, y)` over and over, `flops` floating-point operations in all, on every thread its part.
template <class V, class Step>
Call arithmetic(std::int64_t flops, int flops_per_step, Step step) {
  return [=] {
    const int threads = anneal::num_threads();
    anneal::kernels::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      V sums[chains] = {}, x = {}, y = {};
      opaque(x), opaque(y);
      for (V& sum : sums) opaque(sum);  // or equal chains would become one
      for (std::int64_t i = flops * begin / threads / flops_per_step; i < flops * end / threads / flops_per_step; ++i)
        step(sums, x, y);
      for (V& sum : sums) opaque(sum);
    });
  };
}

Call fma(const Case& c) {
  return arithmetic<Vector>(c.sizes.at(0), chains * lanes * 2, [](Vector* sums, const Vector& x, const Vector& y) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sums[i] = sums[i] * x + y;
  });
}

#if defined(__AVX512BF16__)
Call dot(const Case& c) {
  return arithmetic<__m512>(c.sizes.at(0), chains * lanes * 4, [](__m512* sums, const __m512& x, const __m512& y) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i)
      sums[i] = _mm512_dpbf16_ps(sums[i], __builtin_bit_cast(__m512bh, x), __builtin_bit_cast(__m512bh, y));
  });
}
#else
Call dot(const Case&) { return {}; }
#endif

// Writes past the caches where the instruction set can.
void stream_store(float* to, const Vector& value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#else
  *reinterpret_cast<Vector*>(to) = value;
#endif
}

struct Streams {
  static constexpr int most = 4;
  float* updated[most] = {};
  const float* read[most] = {};
  float* written[most] = {};
};

// Which way is the fastest depends on the size and on how many cores run.
enum class Way { plain, prefetched, past_caches };

template <Way way, class T>
void ahead(const T* from) {
  if constexpr (way == Way::prefetched) __builtin_prefetch(from + 4 * 64 / sizeof(T));
}

template <int Updated, int Read, int Written, Way way>
void pass(const Streams& s, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; i += lanes) {
    Vector sum = {};
    for (int j = 0; j < Read; ++j) {
      ahead<way>(s.read[j] + i);
      sum += *reinterpret_cast<const Vector*>(s.read[j] + i);
    }
    for (int j = 0; j < Updated; ++j) {
      ahead<way>(s.updated[j] + i);
      Vector& value = *reinterpret_cast<Vector*>(s.updated[j] + i);
      value = value * 0.5f + sum;
    }
    for (int j = 0; j < Written; ++j) {
      if constexpr (way == Way::past_caches) stream_store(s.written[j] + i, sum);
      else *reinterpret_cast<Vector*>(s.written[j] + i) = sum;
    }
  }
}

using Pass = void (*)(const Streams&, std::int64_t begin, std::int64_t end);
template <int Updated, int Read, int Written>
constexpr std::array<Pass, 3> ways = {pass<Updated, Read, Written, Way::plain>,
                                      pass<Updated, Read, Written, Way::prefetched>,
                                      pass<Updated, Read, Written, Way::past_caches>};

using Mix = std::array<std::int64_t, 3>;
const std::map<Mix, std::array<Pass, 3>> passes = {
    {{3, 1, 0}, ways<3, 1, 0>}, {{0, 1, 1}, ways<0, 1, 1>}, {{0, 2, 1}, ways<0, 2, 1>}};

Call stream(const Case& c) {
  const std::int64_t n = c.sizes.at(0) / lanes * lanes;
  const Mix mix{c.sizes.at(1), c.sizes.at(2), c.sizes.at(3)};
  anneal::check(passes.contains(mix), "no probe of this mix of streams");
  // Arrays that start at equal offsets in their pages would get in each other's way.
  std::vector<Tensor> tensors;
  const auto array = [&] {
    const std::int64_t offset = static_cast<std::int64_t>(tensors.size()) * (4096 + 3 * 64) / 4;
    tensors.push_back(bench::numbers({n + offset}));
    return tensors.back().data<float>() + offset;
  };
  Streams s;
  for (int j = 0; j < mix[0]; ++j) s.updated[j] = array();
  for (int j = 0; j < mix[1]; ++j) s.read[j] = array();
  for (int j = 0; j < mix[2]; ++j) s.written[j] = array();
  const auto run = [tensors, s, n](Pass one) {
    anneal::kernels::parallel_for(n / lanes, 1,
                                  [&](std::int64_t begin, std::int64_t end) { one(s, begin * lanes, end * lanes); });
  };
  Pass fastest = nullptr;
  double least = 0;
  for (const Pass one : passes.at(mix))
    for (int i = 0; i < 5; ++i)
      if (const double seconds = bench::seconds_of([&] { run(one); }); !fastest || seconds < least)
        fastest = one, least = seconds;
  return [=] { run(fastest); };
}

// A thread on another core that answers.
class Partner {
 public:
  ~Partner() {
    ball_.store(-1);
    thread_.join();
  }
  void play() {
    ball_.store(1, std::memory_order_release);
    while (ball_.load(std::memory_order_acquire) != 0) {}
  }

 private:
  alignas(128) std::atomic<int> ball_ = 0;
  std::thread thread_{[this] {
    for (int ball; (ball = ball_.load(std::memory_order_acquire)) >= 0;)
      if (ball == 1) ball_.store(0, std::memory_order_release);
  }};
};
Call pingpong(const Case&) {
  return [partner = std::make_shared<Partner>()] { partner->play(); };
}

Call make(const Case& c) {
  if (c.kernel == "fma") return fma(c);
  if (c.kernel == "dot") return dot(c);
  if (c.kernel == "stream") return stream(c);
  if (c.kernel == "pingpong") return pingpong(c);
  return {};
}

}  // namespace

int main(int argc, char** argv) { return bench::answer_rounds(argc, argv, make, anneal::set_num_threads); }
