// Batch norm over [n, channels, inner]: slices of each channel are summed up, and then normalised, by blocks of their
// own.
#include <utility>

#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/math.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

constexpr int threads_of_block = 256, warps = threads_of_block / 32;

/// f(0), ..., f(n - 1), without a loop: what f indexes stays in registers.
template <int n, class F>
ANNEAL_DEVICE void repeat(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) { (f(k), ...); }
  (std::make_integer_sequence<int, n>());
}

/// How the planes [n, channels] of `inner` elements are dealt out. Where planes are long a block has one channel, and
/// the lanes of a warp share a plane, or a piece of it; else it has 32 channels, a lane each. A channel's pieces go in
/// turn to the warps of its `slices` blocks. All is fixed by the shape.
struct Layout {
  static constexpr std::int64_t piece = 4096;
  std::int64_t n, channels, inner, pieces, tiles, slices;
  bool shared;  // planes, by the lanes

  Layout(std::int64_t n, std::int64_t channels, std::int64_t inner)
      : n(n), channels(channels), inner(inner), pieces((inner + piece - 1) / piece), shared(inner >= 32) {
    constexpr std::int64_t enough_blocks = 1024, most_slices = threads_of_block;
    tiles = shared ? channels : (channels + 31) / 32;
    const std::int64_t useful = std::max((n * pieces + warps - 1) / warps, std::int64_t{1});
    slices = std::min({enough_blocks / std::max(tiles, std::int64_t{1}) + 1, most_slices, useful});
  }
  std::int64_t blocks() const { return tiles * slices; }
};

/// A thread's part of its channel.
class Part {
 public:
  ANNEAL_DEVICE Part(Block& block, const Layout& layout)
      : block_(block),
        layout_(layout),
        slice_(block.index() / layout.tiles),
        channel_(layout.shared ? block.index() % layout.tiles : block.index() % layout.tiles * 32 + lane()),
        there_(channel_ < layout.channels) {}

  /// Whether the channel is one: the last block of 32 may have fewer.
  ANNEAL_DEVICE bool there() const { return there_; }
  ANNEAL_DEVICE std::int64_t channel() const { return channel_; }
  /// True in one thread of each channel.
  ANNEAL_DEVICE bool leads() const {
    return there_ && slice_ == 0 && (layout_.shared ? block_.thread() == 0 : warp() == 0);
  }

  /// use(offset, load(offset)) for the `width` elements at each offset of this part, with several loads on the way.
  template <int width, class Load, class Use>
  ANNEAL_DEVICE void each(const Load& load, const Use& use) const {
    if (!there_) return;
    constexpr int at_once = width == 1 ? 4 : 2;
    const std::int64_t first = layout_.shared ? lane() * width : 0, step = layout_.shared ? 32 * width : width;
    for (std::int64_t u = slice_ * warps + warp(); u < layout_.n * layout_.pieces; u += layout_.slices * warps) {
      const std::int64_t sample = layout_.pieces == 1 ? u : u / layout_.pieces;
      const std::int64_t begin = (u - sample * layout_.pieces) * Layout::piece;
      const std::int64_t base = (sample * layout_.channels + channel_) * layout_.inner;
      const std::int64_t end = base + std::min(begin + Layout::piece, layout_.inner);
      for (std::int64_t i = base + begin + first; i < end; i += at_once * step) {
        decltype(load(i)) values[at_once];
        repeat<at_once>([&](int k) {
          if (i + k * step < end) values[k] = load(i + k * step);
        });
        repeat<at_once>([&](int k) {
          if (i + k * step < end) use(i + k * step, values[k]);
        });
      }
    }
  }

  /// The sum over the threads of this block that have the same channel; each gets it.
  ANNEAL_DEVICE double sum(double value) const {
    if (layout_.shared) return block_sum(block_, value);
    double* const values = block_.shared<double>();
    values[block_.thread()] = value;
    block_.sync();
    double total = 0;
    for (int w = 0; w < warps; ++w) total += values[w * 32 + lane()];
    block_.sync();
    return total;
  }

  /// Where this block's part of what slices sum up lies, and f(part) for this thread's share of all slices' parts.
  template <class P>
  ANNEAL_DEVICE P& own(P* parts) const {
    return parts[slice_ * layout_.channels + channel_];
  }
  template <class P, class F>
  ANNEAL_DEVICE void each_slice(const P* parts, const F& f) const {
    if (!there_) return;
    const int first = layout_.shared ? block_.thread() : warp(), step = layout_.shared ? threads_of_block : warps;
    for (std::int64_t s = first; s < layout_.slices; s += step) f(parts[s * layout_.channels + channel_]);
  }
  /// Whether this thread writes `own`.
  ANNEAL_DEVICE bool writes() const { return there_ && (layout_.shared ? block_.thread() == 0 : warp() == 0); }

 private:
  ANNEAL_DEVICE int lane() const { return block_.thread() % 32; }
  ANNEAL_DEVICE int warp() const { return block_.thread() / 32; }

  Block& block_;
  const Layout& layout_;
  std::int64_t slice_, channel_;
  bool there_;
};

/// Shared memory of `Part::sum`.
constexpr std::size_t sum_bytes = threads_of_block * sizeof(double);

/// `squares`: the sum of squared differences from the mean.
struct Moments {
  double count = 0, mean = 0, squares = 0;
};

/// The moments of all; `each(f)` calls f with this thread's.
template <class Each>
ANNEAL_DEVICE Moments combine(const Part& part, const Each& each) {
  Moments all;
  each([&](const Moments& m) {
    all.count += m.count;
    all.mean += m.count * m.mean;
  });
  all.count = part.sum(all.count);
  all.mean = part.sum(all.mean) / all.count;
  each([&](const Moments& m) {
    const double d = m.mean - all.mean;
    all.squares += m.squares + m.count * d * d;
  });
  all.squares = part.sum(all.squares);
  return all;
}

template <class T, int width>
struct MomentsKernel {
  static constexpr int threads = threads_of_block;
  Layout layout;
  const T* x;
  Moments* parts;

  ANNEAL_DEVICE void operator()(Block& block) const {
    using C = Compute<T>;
    const Part part(block, layout);
    // A thread sums differences from its first element: exact enough, as that is one of those whose spread is wanted.
    C origin = 0, sum = 0, squares = 0;
    std::int64_t count = 0;
    part.each<width>([&](std::int64_t i) { return load_vector<width>(x + i); },
                     [&](std::int64_t, const Vector<T, width>& v) {
                       if (count == 0) origin = load(v[0]);
                       repeat<width>([&](int k) {
                         const C d = load(v[k]) - origin;
                         sum += d;
                         squares += d * d;
                       });
                       count += width;
                     });
    Moments mine;
    if (count > 0) {
      const auto n = static_cast<double>(count), total = static_cast<double>(sum);
      mine = {n, static_cast<double>(origin) + total / n, static_cast<double>(squares) - total * (total / n)};
    }
    const Moments all = combine(part, [&](const auto& f) { f(mine); });
    if (part.writes()) part.own(parts) = all;
  }
};

template <class T, class P, int width>
struct NormaliseKernel {
  using C = Compute<T>;
  static constexpr int threads = threads_of_block;
  Layout layout;
  bool training;
  double eps, momentum;
  const T* x;
  const P *weight, *bias;
  T* y;
  P *running_mean, *running_var;
  C *mean, *rstd;
  const Moments* parts;

  ANNEAL_DEVICE void move(P& running, double value) const {
    running = store<P>(static_cast<C>((1 - momentum) * static_cast<double>(load(running)) + momentum * value));
  }

  ANNEAL_DEVICE void operator()(Block& block) const {
    const Part part(block, layout);
    const std::int64_t channel = part.channel();
    Moments all;
    if (training) all = combine(part, [&](const auto& f) { part.each_slice(parts, f); });
    if (!part.there()) return;
    const C centre = training ? static_cast<C>(all.mean) : load(running_mean[channel]);
    const double var = training ? all.squares / all.count : static_cast<double>(load(running_var[channel]));
    const auto inverse = static_cast<C>(1 / math::sqrt(var + eps));
    if (part.leads()) {
      if (training && running_mean) move(running_mean[channel], all.mean);
      if (training && running_var) move(running_var[channel], all.count > 1 ? all.squares / (all.count - 1) : var);
      if (mean) mean[channel] = centre;
      if (rstd) rstd[channel] = inverse;
    }
    const C scale = weight ? inverse * load(weight[channel]) : inverse;
    const C shift = bias ? load(bias[channel]) : C(0);
    part.each<width>([&](std::int64_t i) { return load_vector<width>(x + i); },
                     [&](std::int64_t i, Vector<T, width>& v) {
                       repeat<width>([&](int k) { v[k] = store<T>((load(v[k]) - centre) * scale + shift); });
                       store_vector(y + i, v);
                     });
  }
};

/// Of dy, and of dy * (x - mean).
struct GradSums {
  double plain = 0, centred = 0;
};

template <class T, int width>
struct Slope {
  Vector<T, width> x, dy;
};

template <class T, int width>
struct GradSumsKernel {
  using C = Compute<T>;
  static constexpr int threads = threads_of_block;
  Layout layout;
  const T *x, *dy;
  const C* mean;
  GradSums* parts;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const Part part(block, layout);
    const C centre = part.there() ? mean[part.channel()] : C(0);
    C plain = 0, centred = 0;
    part.each<width>(
        [&](std::int64_t i) {
          return Slope<T, width>{load_vector<width>(x + i), load_vector<width>(dy + i)};
        },
        [&](std::int64_t, const Slope<T, width>& v) {
          repeat<width>([&](int k) {
            plain += load(v.dy[k]);
            centred += load(v.dy[k]) * (load(v.x[k]) - centre);
          });
        });
    const GradSums all{part.sum(static_cast<double>(plain)), part.sum(static_cast<double>(centred))};
    if (part.writes()) part.own(parts) = all;
  }
};

template <class T, class P, int width>
struct GradKernel {
  using C = Compute<T>;
  static constexpr int threads = threads_of_block;
  Layout layout;
  bool training;
  const T* x;
  const P* weight;
  const C *mean, *rstd;
  const T* dy;
  T* dx;
  P *dweight, *dbias;
  const GradSums* parts;  // or null

  ANNEAL_DEVICE void operator()(Block& block) const {
    const Part part(block, layout);
    const std::int64_t channel = part.channel();
    GradSums all;
    if (parts) {
      part.each_slice(parts, [&](const GradSums& s) { all.plain += s.plain, all.centred += s.centred; });
      all = {part.sum(all.plain), part.sum(all.centred)};
    }
    if (!part.there()) return;
    const C inverse = rstd[channel];
    if (part.leads()) {
      if (dweight) dweight[channel] = store<P>(static_cast<C>(all.centred * static_cast<double>(inverse)));
      if (dbias) dbias[channel] = store<P>(static_cast<C>(all.plain));
    }
    if (!dx) return;
    const C scale = weight ? inverse * load(weight[channel]) : inverse;
    if (!training) {
      part.each<width>([&](std::int64_t i) { return load_vector<width>(dy + i); },
                       [&](std::int64_t i, Vector<T, width>& v) {
                         repeat<width>([&](int k) { v[k] = store<T>(scale * load(v[k])); });
                         store_vector(dx + i, v);
                       });
      return;
    }
    const auto count = static_cast<double>(layout.n * layout.inner);
    const C centre = mean[channel], offset = static_cast<C>(all.plain / count);
    const C along = static_cast<C>(all.centred / count) * inverse * inverse;
    part.each<width>(
        [&](std::int64_t i) {
          return Slope<T, width>{load_vector<width>(x + i), load_vector<width>(dy + i)};
        },
        [&](std::int64_t i, Slope<T, width>& v) {
          repeat<width>(
              [&](int k) { v.dy[k] = store<T>(scale * ((load(v.dy[k]) - offset) - (load(v.x[k]) - centre) * along)); });
          store_vector(dx + i, v.dy);
        });
  }
};

/// Calls f.operator()<T, P, width>(): 16 bytes of elements at a time, or one if planes do not allow that.
template <class F, class... Pointers>
void with_width(DType dtype, DType parameters, const Layout& layout, const F& f, const Pointers*... pointers) {
  visit_floating(dtype, parameters, [&]<class T, class P>() {
    const bool wide = layout.shared && layout.inner % vector_size<T> == 0 && (aligned(pointers) && ...);
    if (wide) f.template operator()<T, P, vector_size<T>>();
    else f.template operator()<T, P, 1>();
  });
}

template <class P>
P* parts_of(const Layout& layout, Stream stream) {
  return static_cast<P*>(workspace(stream, static_cast<std::size_t>(layout.slices * layout.channels) * sizeof(P)));
}

}  // namespace

template <>
void run(const BatchNorm& a, Stream stream) {
  if (a.n * a.inner == 0) return;
  const Layout layout(a.n, a.c, a.inner);
  Moments* const parts = a.training ? parts_of<Moments>(layout, stream) : nullptr;
  const auto launch_all = [&]<class T, class P, int width>() {
    using C = Compute<T>;
    const auto* x = static_cast<const T*>(a.x);
    if (a.training) launch(stream, layout.blocks(), MomentsKernel<T, width>{layout, x, parts}, sum_bytes);
    launch(stream, layout.blocks(),
           NormaliseKernel<T, P, width>{layout, a.training, a.eps, a.momentum, x, static_cast<const P*>(a.weight),
                                        static_cast<const P*>(a.bias), static_cast<T*>(a.y),
                                        static_cast<P*>(a.running_mean), static_cast<P*>(a.running_var),
                                        static_cast<C*>(a.mean), static_cast<C*>(a.rstd), parts},
           sum_bytes);
  };
  with_width(a.dtype, a.parameters, layout, launch_all, a.x, a.y);
}

template <>
void run(const BatchNormGrad& a, Stream stream) {
  const Layout layout(a.n, a.c, a.inner);
  const bool sums = a.training || a.dweight || a.dbias;
  GradSums* const parts = sums ? parts_of<GradSums>(layout, stream) : nullptr;
  const auto launch_all = [&]<class T, class P, int width>() {
    using C = Compute<T>;
    const auto *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
    const auto* mean = static_cast<const C*>(a.mean);
    if (sums) launch(stream, layout.blocks(), GradSumsKernel<T, width>{layout, x, dy, mean, parts}, sum_bytes);
    launch(stream, layout.blocks(),
           GradKernel<T, P, width>{layout, a.training, x, static_cast<const P*>(a.weight), mean,
                                   static_cast<const C*>(a.rstd), dy, static_cast<T*>(a.dx), static_cast<P*>(a.dweight),
                                   static_cast<P*>(a.dbias), parts},
           sum_bytes);
  };
  with_width(a.dtype, a.parameters, layout, launch_all, a.x, a.dy, a.dx);
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
