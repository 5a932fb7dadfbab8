// Batch norm over [n, channels, inner]: a thread owns a block of channels and walks the samples.
#include "anneal/kernels/cpu/lanes.h"
#include "anneal/kernels/math.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr int max_width = 32;                     // channels of a block
constexpr std::int64_t grain_elements = 1 << 15;  // less is not worth a second thread

/// Some neighbouring channels of a batch. Where images are small a block takes several channels, so that what it reads
/// of a sample is a few cache lines at least.
struct Channels {
  std::int64_t n, channels, inner, first;
  int width;

  /// f(channel in this block, offset of its elements in sample s), sample by sample
  template <class F>
  ANNEAL_HD void each_plane(std::int64_t s, const F& f) const {
    for (int k = 0; k < width; ++k) f(k, (s * channels + first + k) * inner);
  }

  /// total[k] = the sum of f(k, offset) over all elements of channel k
  template <class F>
  ANNEAL_HD void sum(double* total, const F& f) const {
    for (int k = 0; k < max_width; ++k) total[k] = 0;
    for (std::int64_t s = 0; s < n; ++s) {
      if (inner == 1) {
        const std::int64_t base = s * channels + first;
        ANNEAL_LANES
        for (int k = 0; k < width; ++k) total[k] += static_cast<double>(f(k, base + k));
      } else {
        each_plane(s, [&](int k, std::int64_t base) {
          total[k] += static_cast<double>(LaneGroup().sum(inner, [=](std::int64_t i) { return f(k, base + i); }));
        });
      }
    }
  }

  /// f(k, offset) for all elements of the block
  template <class F>
  ANNEAL_HD void each(const F& f) const {
    for (std::int64_t s = 0; s < n; ++s) {
      if (inner == 1) {
        const std::int64_t base = s * channels + first;
        ANNEAL_LANES
        for (int k = 0; k < width; ++k) f(k, base + k);
      } else {
        each_plane(s,
                   [&](int k, std::int64_t base) { LaneGroup().each(inner, [=](std::int64_t i) { f(k, base + i); }); });
      }
    }
  }
};

template <class Args, class F>
ANNEAL_HD void for_blocks(const Args& a, const F& f) {
  const std::int64_t wanted = a.inner <= 1 ? max_width : 512 / a.inner;
  const std::int64_t width = wanted < 1 ? 1 : wanted > max_width ? max_width : wanted;
  parallel_for((a.c + width - 1) / width, grain_elements / (a.n * a.inner * width + 1) + 1,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   const std::int64_t first = b * width, left = a.c - first;
                   f(Channels{a.n, a.c, a.inner, first, static_cast<int>(left < width ? left : width)});
                 }
               });
}

template <class T, class P>
void batch_norm(const BatchNorm& a) {
  using C = Compute<T>;
  const auto* x = static_cast<const T*>(a.x);
  const auto* weight = static_cast<const P*>(a.weight);
  const auto* bias = static_cast<const P*>(a.bias);
  auto* y = static_cast<T*>(a.y);
  auto* running_mean = static_cast<P*>(a.running_mean);
  auto* running_var = static_cast<P*>(a.running_var);
  const auto count = static_cast<double>(a.n * a.inner);
  const double unbiased = count > 1 ? count / (count - 1) : 1;
  const auto move = [momentum = a.momentum](P& running, double value) {
    running = store<P>(static_cast<C>((1 - momentum) * static_cast<double>(load(running)) + momentum * value));
  };
  for_blocks(a, [&](const Channels& block) {
    C mean[max_width], scale[max_width], shift[max_width];
    double var[max_width];
    if (a.training) {
      block.sum(var, [=](int, std::int64_t i) { return load(x[i]); });
      for (int k = 0; k < block.width; ++k) mean[k] = static_cast<C>(var[k] / count);
      block.sum(var, [=, &mean](int k, std::int64_t i) {
        const C d = load(x[i]) - mean[k];
        return d * d;
      });
      for (int k = 0; k < block.width; ++k) var[k] /= count;
    }
    for (int k = 0; k < block.width; ++k) {
      const std::int64_t channel = block.first + k;
      if (!a.training) {
        mean[k] = load(running_mean[channel]);
        var[k] = static_cast<double>(load(running_var[channel]));
      } else {
        if (running_mean) move(running_mean[channel], static_cast<double>(mean[k]));
        if (running_var) move(running_var[channel], var[k] * unbiased);
      }
      const auto rstd = static_cast<C>(1 / math::sqrt(var[k] + a.eps));
      if (a.mean) static_cast<C*>(a.mean)[channel] = mean[k];
      if (a.rstd) static_cast<C*>(a.rstd)[channel] = rstd;
      scale[k] = weight ? rstd * load(weight[channel]) : rstd;
      shift[k] = bias ? load(bias[channel]) : C(0);
    }
    block.each([=, &mean, &scale, &shift](int k, std::int64_t i) {
      y[i] = store<T>((load(x[i]) - mean[k]) * scale[k] + shift[k]);
    });
  });
}

template <class T, class P>
void batch_norm_grad(const BatchNormGrad& a) {
  using C = Compute<T>;
  const auto* x = static_cast<const T*>(a.x);
  const auto* dy = static_cast<const T*>(a.dy);
  const auto* weight = static_cast<const P*>(a.weight);
  auto* dx = static_cast<T*>(a.dx);
  const double inverse_count = a.training && a.n * a.inner > 0 ? 1 / static_cast<double>(a.n * a.inner) : 0;
  for_blocks(a, [&](const Channels& block) {
    const C* const rstd = static_cast<const C*>(a.rstd) + block.first;
    C mean[max_width], scale[max_width], offset[max_width], along[max_width];
    for (int k = 0; k < block.width; ++k) mean[k] = static_cast<const C*>(a.mean)[block.first + k];
    double plain[max_width], centred[max_width];  // sums of dy and of dy * (x - mean)
    if (a.training || a.dweight || a.dbias) {
      block.sum(plain, [=](int, std::int64_t i) { return load(dy[i]); });
      block.sum(centred, [=, &mean](int k, std::int64_t i) { return load(dy[i]) * (load(x[i]) - mean[k]); });
    }
    for (int k = 0; k < block.width; ++k) {
      const std::int64_t channel = block.first + k;
      if (a.dweight)
        static_cast<P*>(a.dweight)[channel] = store<P>(static_cast<C>(centred[k] * static_cast<double>(rstd[k])));
      if (a.dbias) static_cast<P*>(a.dbias)[channel] = store<P>(static_cast<C>(plain[k]));
      scale[k] = weight ? rstd[k] * load(weight[channel]) : rstd[k];
      if (a.training) {
        offset[k] = static_cast<C>(plain[k] * inverse_count);
        along[k] = static_cast<C>(centred[k] * inverse_count) * rstd[k] * rstd[k];
      }
    }
    if (!dx) return;
    if (a.training) {
      block.each([=, &mean, &scale, &offset, &along](int k, std::int64_t i) {
        dx[i] = store<T>(scale[k] * ((load(dy[i]) - offset[k]) - (load(x[i]) - mean[k]) * along[k]));
      });
    } else {
      block.each([=, &scale](int k, std::int64_t i) { dx[i] = store<T>(scale[k] * load(dy[i])); });
    }
  });
}

}  // namespace

template <>
void run(const BatchNorm& a) {
  if (a.n * a.inner == 0) return;
  visit_floating(a.dtype, a.parameters, [&]<class T, class P>() { batch_norm<T, P>(a); });
}

template <>
void run(const BatchNormGrad& a) {
  visit_floating(a.dtype, a.parameters, [&]<class T, class P>() { batch_norm_grad<T, P>(a); });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
