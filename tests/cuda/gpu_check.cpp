// Checks and times every kernel of the GPU backend against the CPU's in f64; scripts/gpu_check runs it. Built with
// ANNEAL_GPU=emulated it runs the same kernels on the CPU, to test itself.
//
//   gpu_check groups                    the names of the groups of kernels
//   gpu_check check [--tiny] [GROUP...] each kernel: sizes, dtypes, alignments, guards, the same bits every time
//   gpu_check probe                     JSON: the device, its ceilings, what cuDNN knows of it
//   gpu_check bench [GROUP...]          each kernel's time, and its share of the ceiling
//
// Rows are tab-separated. Exits with 0 if all is well, 1 if a check failed, 2 for a wrong call, 77 without a GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <set>
#include <stdexcept>
#include <string_view>

#include "anneal/kernels/pointwise.h"
#include "anneal/tests/cuda/cases.h"

namespace anneal::gpu_check {
namespace {

using kernels::Stream;

constexpr const char* huge = "huge";  // a group of its own
constexpr const char* size_names[] = {"tiny", "odd", "aligned", "large", "bench"};

/// The largest ||out - reference|| / ||reference|| that rounding to a dtype may leave; 0: equal.
double tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64: return 1e-12;
    case DType::f32: return 1e-5;
    case DType::f16: return 1e-3;
    case DType::bf16: return 8e-3;
    default: return 0;
  }
}

std::vector<double> doubles(const std::vector<std::byte>& bytes, DType dtype) {
  return visit(dtype, [&]<class T>() {
    std::vector<double> values(bytes.size() / sizeof(T));
    for (std::size_t i = 0; i < values.size(); ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      values[i] = static_cast<double>(load(value));
    }
    return values;
  });
}
double rounded(double value, DType dtype) {
  return is_floating(dtype)
             ? visit_floating(dtype, [&]<class T>() { return static_cast<double>(load(store<T>(value))); })
             : value;
}

/// ||out - want|| / ||want||. Throws if that, or an element's own error, is above what `limit` allows, or if an element
/// is not finite where it should be.
double compare(const std::vector<double>& out, const std::vector<double>& want, DType dtype, double limit) {
  double error = 0, norm = 0;
  for (const double w : want) norm += std::isfinite(w) ? w * w : 0;
  const double typical = std::sqrt(norm / std::max<double>(1, static_cast<double>(want.size())));
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double w = want[i], expected = rounded(w, dtype);
    const auto fail = [&] {
      throw std::runtime_error("at " + std::to_string(i) + " of " + std::to_string(want.size()) + ": " +
                               std::to_string(out[i]) + ", expected " + std::to_string(w));
    };
    // Also integers that are read as f64, as those of StepState: all but equal would be too far away.
    const bool exact = !std::isfinite(expected) || limit == 0 || (w != 0 && std::abs(w) < 1e-300);
    if (exact) {
      if (out[i] != expected && !(std::isnan(out[i]) && std::isnan(expected))) fail();
    } else {
      const double difference = out[i] - w;
      if (!(std::abs(difference) <= 30 * limit * (std::abs(w) + typical) + 1e-300)) fail();
      error += difference * difference;
    }
  }
  const double relative = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  if (!(relative <= limit)) throw std::runtime_error("error " + std::to_string(relative));
  return relative;
}

/// Runs one case both ways; returns the largest error. Throws what is wrong.
double check(const Case& c, DType dtype, Size size, bool misaligned, int repeats, Stream stream) {
  Maker reference(Side::reference, dtype, size, misaligned, c.same_dtype);
  c.make(reference).on_cpu();
  Maker device(Side::device, dtype, size, misaligned, c.same_dtype);
  const Call call = c.make(device);
  std::vector<std::vector<std::byte>> first;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (Buffer& buffer : device.buffers()) buffer.reset(stream);
    call.on_gpu(stream);
    gpu::synchronize(stream);
    std::vector<std::vector<std::byte>> contents;
    for (const Buffer& buffer : device.buffers()) contents.push_back(buffer.read(stream));
    if (repeat == 0) first = std::move(contents);
    else if (contents != first) throw std::runtime_error("run " + std::to_string(repeat + 1) + " gave other bits");
  }
  double worst = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const Buffer &out = device.buffers()[i], &want = reference.buffers()[i];
    if (!out.is_output()) continue;
    // What is f64 in any case is computed from numbers of the dtype.
    const bool f64_of_less = out.dtype() == DType::f64 && dtype != DType::f64;
    const double limit = c.tolerance * tolerance(f64_of_less ? DType::f32 : out.dtype());
    worst = std::max(
        worst, compare(doubles(first[i], out.dtype()), doubles(want.read(stream), want.dtype()), out.dtype(), limit));
  }
  return worst;
}

/// y = -x with n elements, more than 32 bits count: looks at the first and the last of them.
void check_huge(std::int64_t n, Stream stream) {
  using namespace kernels;
  const auto allocate = [&] {
    std::unique_ptr<void, void (*)(void*)> memory(gpu::allocate(static_cast<std::size_t>(n) * sizeof(bf16)),
                                                  [](void* p) { gpu::release(p); });
    if (!memory) throw std::runtime_error("no memory left on the device");
    return memory;
  };
  const auto random = [](std::int64_t count, std::int64_t first, void* y) {
    return Random{Distribution::integer, DType::bf16, count, 1, 100, 7, static_cast<std::uint64_t>(first), y};
  };
  const auto x = allocate(), y = allocate();
  gpu::run(random(n, 0, x.get()), stream);
  gpu::fill_zero(y.get(), static_cast<std::size_t>(n) * sizeof(bf16), stream);
  gpu::run(Unary{unary_id<Neg>, DType::bf16, {.rank = 1, .size = {n}, .stride = {{1}, {1}}}, x.get(), y.get()}, stream);
  constexpr std::int64_t edge = 64;
  for (const std::int64_t first : {std::int64_t{0}, n - edge}) {
    std::vector<bf16> got(edge), want(edge);
    gpu::copy(got.data(), static_cast<const bf16*>(y.get()) + first, edge * sizeof(bf16), gpu::Copying::to_host,
              stream);
    gpu::synchronize(stream);
    cpu::run(random(edge, first, want.data()));
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (load(got[i]) != -load(want[i]))
        throw std::runtime_error("at " + std::to_string(first) + " + " + std::to_string(i));
    }
  }
}

bool wanted(const std::set<std::string>& groups, const Case& c) { return groups.empty() || groups.contains(c.group); }

int check_all(const std::set<std::string>& groups, bool tiny) {
  const Stream stream = gpu::compute_stream(0);
  int failed = 0, passed = 0;
  std::printf("group\tkernel\tdtype\terror\tresult\n");
  for (const Case& c : cases()) {
    if (!wanted(groups, c)) continue;
    for (const DType dtype : c.dtypes) {
      double worst = 0;
      std::string result = "ok", at;
      try {
        for (const Size size : {Size::tiny, Size::odd, Size::aligned, Size::large}) {
          for (const bool misaligned : {false, true}) {
            if (tiny && (size > Size::odd || (size == Size::odd && dtype != DType::f32))) continue;
            if (size == Size::large && misaligned) continue;
            at = std::string(size_names[static_cast<int>(size)]) + (misaligned ? " misaligned" : "");
            const int repeats = tiny ? 2 : size == Size::large ? 3 : 20;
            worst = std::max(worst, check(c, dtype, size, misaligned, repeats, stream));
          }
        }
        ++passed;
      } catch (const std::exception& problem) {
        result = "FAILED " + at + ": " + problem.what();
        ++failed;
      }
      std::printf("%s\t%s\t%s\t%.1e\t%s\n", c.group.c_str(), c.name.c_str(), name_of(dtype), worst, result.c_str());
      std::fflush(stdout);
    }
  }
  if (groups.empty() || groups.contains(huge)) {
    std::string result = "ok";
    try {
      check_huge(tiny ? 1000 : (std::int64_t{1} << 31) + 9, stream);
      ++passed;
    } catch (const std::exception& problem) {
      result = std::string("FAILED ") + problem.what();
      ++failed;
    }
    std::printf("%s\tneg\tbf16\t0\t%s\n", huge, result.c_str());
  }
  std::fprintf(stderr, "%d ok, %d failed\n", passed, failed);
  return failed > 0 ? 1 : 0;
}

// ---- times ----

/// Seconds a call: the median of rounds of calls.
template <class F>
double seconds(Stream stream, const F& call) {
  constexpr int rounds = 7, calls = 5;
  for (int i = 0; i < 3; ++i) call();
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    gpu::Event begin(gpu::Event::Timing::on), end(gpu::Event::Timing::on);
    begin.record(stream);
    for (int j = 0; j < calls; ++j) call();
    end.record(stream);
    end.synchronize();
    times.push_back(end.milliseconds_since(begin) / 1000 / calls);
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[rounds / 2];
}

struct Timing {
  double seconds, bytes, flops;
};
Timing time_of(const Case& c, DType dtype, Stream stream) {
  Maker maker(Side::device, dtype, Size::bench, false, c.same_dtype);
  const Call call = c.make(maker);
  double bytes = 0;
  for (Buffer& buffer : maker.buffers()) {
    buffer.reset(stream);
    bytes += static_cast<double>(buffer.traffic());
  }
  return {seconds(stream, [&] { call.on_gpu(stream); }), bytes, maker.flops()};
}

/// What the device can do at best, as measured: bytes read and written a second, and operations of a large product.
struct Ceilings {
  double bytes, flops_f32, flops_bf16;
};
Ceilings measure_ceilings(Stream stream) {
  constexpr std::size_t gigabyte = std::size_t{1} << 30;
  Maker maker(Side::device, DType::u8, Size::bench, false, true);
  void* const from = maker.output(gigabyte, {Kind::fixed, DType::u8});
  void* const to = maker.output(gigabyte, {Kind::fixed, DType::u8});
  const double copy = seconds(stream, [&] { gpu::copy(to, from, gigabyte, gpu::Copying::on_device, stream); });
  const auto product = std::find_if(cases().begin(), cases().end(), [](const Case& c) { return c.name == "gemm NT"; });
  const auto rate = [&](DType dtype) {
    const Timing t = time_of(*product, dtype, stream);
    return t.flops / t.seconds;
  };
  return {2 * static_cast<double>(gigabyte) / copy, rate(DType::f32), rate(DType::bf16)};
}

/// Whether relu of NaN is NaN, as the CPU's kernels have it, where a library applies it.
bool keeps_nan(Stream stream, bool convolution) {
  using namespace kernels;
  const std::vector<float> nan(64, std::nanf(""));
  Maker maker(Side::device, DType::f32, Size::tiny, false, false);
  const float* const x = maker.values(nan);
  const float* const weight = maker.values(nan);
  const float* const bias = maker.values(nan);
  auto* const y = maker.output_of<float>(64);
  for (Buffer& buffer : maker.buffers()) buffer.reset(stream);
  if (convolution)
    gpu::run(Conv2d{DType::f32, {1, 1, 8, 8, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1}, x, weight, bias, y, Activation::relu},
             stream);
  else
    gpu::run(Gemm{DType::f32, DType::f32,       false, false, 8, 8, 8, 8, 8, 8, 1, 0, 0, 0, x, weight, y,
                  bias,       Activation::relu, false},
             stream);
  return std::isnan(doubles(maker.buffers().back().read(stream), DType::f32)[0]);
}

int probe() {
  const Stream stream = gpu::compute_stream(0);
  const Ceilings c = measure_ceilings(stream);
  std::printf(
      "{\"device\": \"%s\", \"copy_tb_s\": %.3f, \"gemm_f32_tflops\": %.1f, \"gemm_bf16_tflops\": %.1f,\n"
      " \"gemm_relu_keeps_nan\": %s, \"conv_relu_keeps_nan\": %s,\n \"cudnn_device\": %s}\n",
      gpu::device_name(0).c_str(), c.bytes / 1e12, c.flops_f32 / 1e12, c.flops_bf16 / 1e12,
      keeps_nan(stream, false) ? "true" : "false", keeps_nan(stream, true) ? "true" : "false",
      gpu::device_description(0).c_str());
  return 0;
}

int bench(const std::set<std::string>& groups) {
  const Stream stream = gpu::compute_stream(0);
  const Ceilings ceilings = measure_ceilings(stream);
  int failed = 0;
  std::printf("kernel\tdtype\tmicroseconds\tTB/s\tTFLOP/s\tshare\n");
  for (const Case& c : cases()) {
    if (!c.timed || !wanted(groups, c)) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (std::find(c.dtypes.begin(), c.dtypes.end(), dtype) == c.dtypes.end()) continue;
      try {
        const Timing t = time_of(c, dtype, stream);
        const double flops_ceiling = dtype == DType::f32 ? ceilings.flops_f32 : ceilings.flops_bf16;
        const double share = std::max(t.bytes / t.seconds / ceilings.bytes, t.flops / t.seconds / flops_ceiling);
        std::printf("%s\t%s\t%.1f\t%.3f\t%.1f\t%.0f%%\n", c.name.c_str(), name_of(dtype), t.seconds * 1e6,
                    t.bytes / t.seconds / 1e12, t.flops / t.seconds / 1e12, share * 100);
      } catch (const std::exception& problem) {
        std::printf("%s\t%s\tFAILED %s\n", c.name.c_str(), name_of(dtype), problem.what());
        ++failed;
      }
      std::fflush(stdout);
    }
  }
  return failed > 0 ? 1 : 0;
}

int main(std::vector<std::string_view> arguments) {
  const std::string_view mode = arguments.empty() ? "" : arguments[0];
  if (mode != "groups" && mode != "check" && mode != "probe" && mode != "bench") {
    std::fputs("usage: gpu_check groups | check [--tiny] [GROUP...] | probe | bench [GROUP...]\n", stderr);
    return 2;
  }
  std::set<std::string> known{huge}, groups;
  for (const Case& c : cases()) known.insert(c.group);
  if (mode == "groups") {
    for (const std::string& group : known) std::puts(group.c_str());
    return 0;
  }
  bool tiny = false;
  for (const std::string_view argument : std::span(arguments).subspan(1)) {
    if (argument == "--tiny") tiny = true;
    else groups.emplace(argument);
  }
  for (const std::string& group : groups) {
    if (known.contains(group)) continue;
    std::fprintf(stderr, "no group %s\n", group.c_str());
    return 2;
  }
  if (gpu::device_count() == 0) {
    std::printf("no GPU: %s\n", gpu::unavailable().c_str());
    return 77;
  }
  gpu::set_device(0);
  return mode == "check" ? check_all(groups, tiny) : mode == "bench" ? bench(groups) : probe();
}

}  // namespace
}  // namespace anneal::gpu_check

int main(int argc, char** argv) {
  try {
    return anneal::gpu_check::main({argv + 1, argv + argc});
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "gpu_check: %s\n", problem.what());
    return 1;
  }
}
