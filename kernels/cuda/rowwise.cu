// Softmax, cross-entropy and layer norm: the row programs of kernels/rowwise.h, a warp or a block to a row.
#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/rowwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// The threads that share a row, a Group: a warp, or else the whole block.
template <int lanes>
class RowGroup {
 public:
  ANNEAL_DEVICE explicit RowGroup(Block& block) : block_(&block), lane_(block.thread() % lanes) {}
  ANNEAL_DEVICE int lane() const { return lane_; }

  template <class F>
  ANNEAL_DEVICE auto sum(std::int64_t n, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, f, C(0), [](C a, C b) { return a + b; });
  }
  template <class T, class F>
  ANNEAL_DEVICE auto sum(std::int64_t n, const T* /*next*/, const F& f) const {
    return sum(n, f);
  }
  template <class F>
  ANNEAL_DEVICE auto max(std::int64_t n, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, f, -std::numeric_limits<C>::infinity(), [](C a, C b) { return b > a ? b : a; });
  }
  template <class F>
  ANNEAL_DEVICE void each(std::int64_t n, const F& f) const {
    for (std::int64_t i = lane_; i < n; i += lanes) f(i);
  }
  template <class F>
  ANNEAL_DEVICE void at(std::int64_t i, const F& f) const {
    if (i % lanes == lane_) f(i);
  }
  template <class T, class F>
  ANNEAL_DEVICE void write(std::int64_t n, T* to, const F& f) const {
    each(n, [&](std::int64_t i) { to[i] = f(i); });
  }
  ANNEAL_DEVICE static constexpr std::int64_t block() {
    return std::numeric_limits<std::int64_t>::max();
  }  // whole rows

 private:
  template <class F, class C, class Op>
  ANNEAL_DEVICE C reduce(std::int64_t n, const F& f, C start, const Op& op) const {
    C total = start;
    each(n, [&](std::int64_t i) { total = op(total, f(i)); });
    if constexpr (lanes == 32) {
      for (int mask = 16; mask > 0; mask /= 2) total = op(total, block_->shuffle_xor(total, mask));
      return total;
    } else {
      return block_reduce(*block_, total, op);
    }
  }

  Block* block_;
  int lane_;
};

constexpr int block_lanes = 512;
constexpr std::size_t warp_bytes = 4096;  // of a row that a warp works on
/// Shared memory that a block has on every device of compute capability 8 or 9, less what `block_reduce` takes.
constexpr std::size_t shared_limit = 99 * 1024 - 512;

/// Rows to be read and written. Where they are aligned and fit, that is done once, 16 bytes at a time, and programs
/// work on copies in shared memory; the output then takes the place of the last input.
template <class T, int inputs>
struct Rows {
  std::int64_t rows, cols;
  const T* input[inputs];
  T* output;  // or null
  bool staged;

  Rows(std::int64_t rows, std::int64_t cols, const void* const (&from)[inputs], void* to)
      : rows(rows), cols(cols), output(static_cast<T*>(to)) {
    staged = cols > 0 && cols % vector_size<T> == 0 && aligned(output) && row_bytes() <= shared_limit;
    for (int k = 0; k < inputs; ++k) {
      input[k] = static_cast<const T*>(from[k]);
      staged = staged && aligned(input[k]);
    }
  }
  static bool short_rows(std::int64_t cols) { return static_cast<std::size_t>(cols) * sizeof(T) <= warp_bytes; }
  std::size_t row_bytes() const { return inputs * static_cast<std::size_t>(cols) * sizeof(T); }
  std::size_t shared_bytes(int teams) const { return staged ? static_cast<std::size_t>(teams) * row_bytes() : 0; }

  /// Where input k of a row is while programs work on it.
  ANNEAL_DEVICE const T* in(Block& block, std::int64_t row, int team, int k) const {
    return staged ? stage(block, team, k) : input[k] + row * cols;
  }
  ANNEAL_DEVICE T* out(Block& block, std::int64_t row, int team) const {
    return staged ? stage(block, team, inputs - 1) : output + row * cols;
  }
  template <int lanes>
  ANNEAL_DEVICE void read(Block& block, const RowGroup<lanes>& team, std::int64_t row) const {
    for (int k = 0; k < inputs; ++k) { copy(team, input[k] + row * cols, stage(block, block.thread() / lanes, k)); }
  }
  template <int lanes>
  ANNEAL_DEVICE void write(Block& block, const RowGroup<lanes>& team, std::int64_t row) const {
    copy(team, stage(block, block.thread() / lanes, inputs - 1), output + row * cols);
  }

 private:
  ANNEAL_DEVICE T* stage(Block& block, int team, int k) const {
    return block.template shared<T>() + (team * inputs + k) * cols;
  }
  template <int lanes>
  ANNEAL_DEVICE void copy(const RowGroup<lanes>& team, const T* from, T* to) const {
    constexpr int width = vector_size<T>, step = lanes * width, at_once = 2;  // loads on the way
    for (std::int64_t i = team.lane() * width; i < cols; i += at_once * step) {
      Vector<T, width> v[at_once];
      for (int k = 0; k < at_once; ++k) {
        if (i + k * step < cols) v[k] = load_vector<width>(from + i + k * step);
      }
      for (int k = 0; k < at_once; ++k) {
        if (i + k * step < cols) store_vector(to + i + k * step, v[k]);
      }
    }
  }
};

/// program(group, row, n, in, out) for every row. What a thread reads of the shared memory when it writes a row out
/// is what it overwrites with the next row, so no barrier stands between those.
template <class T, class Program, int lanes>
struct RowKernel {
  static constexpr int threads = lanes == 32 ? 256 : lanes;
  static constexpr int teams = threads / lanes;
  Program program;
  Rows<T, Program::inputs> rows;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const RowGroup<lanes> team(block);
    const int number = block.thread() / lanes;
    for (std::int64_t first = block.index() * teams; first < rows.rows; first += block.count() * teams) {
      const std::int64_t row = first + number;
      const bool here = row < rows.rows;
      if (rows.staged) {
        if (here) rows.read(block, team, row);
        block.sync();
      }
      if (here) {
        const T* in[Program::inputs];
        for (int k = 0; k < Program::inputs; ++k) in[k] = rows.in(block, row, number, k);
        program(team, row, rows.cols, in, rows.out(block, row, number));
      }
      if (rows.staged) {
        block.sync();
        if (here && rows.output) rows.write(block, team, row);
      }
    }
  }
};

template <class T, class Program>
void run_rows(Stream stream, const Program& program, const Rows<T, Program::inputs>& rows) {
  const auto with = [&]<int lanes>() {
    using Kernel = RowKernel<T, Program, lanes>;
    launch(stream, blocks_for(rows.rows, Kernel::teams), Kernel{program, rows}, rows.shared_bytes(Kernel::teams));
  };
  if (rows.short_rows(rows.cols)) with.template operator()<32>();
  else with.template operator()<block_lanes>();
}

template <class T>
struct SoftmaxProgram {
  static constexpr int inputs = 1;
  bool log;

  template <class G>
  ANNEAL_DEVICE void operator()(const G& g, std::int64_t, std::int64_t n, const T* const* in, T* out) const {
    if (log) return softmax_row<true>(g, n, in[0], out, nullptr);
    if constexpr (std::is_same_v<T, Compute<T>>) softmax_row<false>(g, n, in[0], out, out);
    else softmax_row<false>(g, n, in[0], out, nullptr);
  }
};

template <class T>
struct SoftmaxGradProgram {
  static constexpr int inputs = 2;
  bool log;

  template <class G>
  ANNEAL_DEVICE void operator()(const G& g, std::int64_t, std::int64_t n, const T* const* in, T* out) const {
    if (log) softmax_grad_row<true>(g, n, in[0], in[1], out);
    else softmax_grad_row<false>(g, n, in[0], in[1], out);
  }
};

template <class T>
struct CrossEntropyProgram {
  static constexpr int inputs = 1;
  Targets targets;
  Compute<T>* loss;
  bool differentiated;

  template <class G>
  ANNEAL_DEVICE void operator()(const G& g, std::int64_t row, std::int64_t n, const T* const* in, T* out) const {
    const auto target = row_target<T>(targets, row, n);
    const auto value = cross_entropy_row(g, n, in[0], target, differentiated ? out : nullptr, nullptr);
    if (g.lane() == 0) loss[row] = value;
  }
};

template <class T>
struct ScaleRowsKernel {
  static constexpr int threads = 256;
  std::int64_t rows, cols;
  const T* x;
  const Compute<T>* factors;
  bool shared;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for (std::int64_t row = block.index(); row < rows; row += block.count()) {
      const Compute<T> factor = factors[shared ? 0 : row];
      if (x == y && factor == 1) continue;
      for (std::int64_t i = row * cols + block.thread(); i < (row + 1) * cols; i += threads) {
        y[i] = store<T>(factor * load(x[i]));
      }
    }
  }
};

template <class T>
struct LayerNormProgram {
  static constexpr int inputs = 1;
  bool rms;
  Compute<T> eps;
  const T *weight, *bias;
  Compute<T>*mean, *rstd;
  const T* residual;
  T* sum;

  template <class G>
  ANNEAL_DEVICE void operator()(const G& g, std::int64_t row, std::int64_t n, const T* const* in, T* out) const {
    const T* x = in[0];
    if (residual) x = add_row(g, n, x, residual + row * n, sum + row * n);
    const auto moments = rms ? layer_norm_row<true>(g, n, eps, x, weight, bias, out)
                             : layer_norm_row<false>(g, n, eps, x, weight, bias, out);
    if (g.lane() != 0) return;
    if (mean) mean[row] = moments.mean;
    if (rstd) rstd[row] = moments.rstd;
  }
};

/// dx of `layer_norm_row`, added to `before` unless that is null.
template <bool rms, Group G, class T>
ANNEAL_DEVICE void layer_norm_grad_row(const G& g, std::int64_t n, const RowMoments<Compute<T>>& moments, const T* x,
                                       const T* weight, const T* dy, const T* before, T* dx) {
  using C = Compute<T>;
  const C mean = moments.mean, rstd = moments.rstd;
  const auto program = [=](auto slope) {  // slope(i) = dy_i * weight_i
    const C count = static_cast<C>(n);
    C offset = 0;
    if constexpr (!rms) offset = g.sum(n, slope) / count;
    const C along = g.sum(n, [=](std::int64_t i) { return slope(i) * (load(x[i]) - mean); }) * rstd * rstd / count;
    const auto value = [=](std::int64_t i) { return rstd * ((slope(i) - offset) - (load(x[i]) - mean) * along); };
    if (before) g.each(n, [=](std::int64_t i) { dx[i] = store<T>(value(i) + load(before[i])); });
    else g.each(n, [=](std::int64_t i) { dx[i] = store<T>(value(i)); });
  };
  if (weight) program([=](std::int64_t i) { return load(dy[i]) * load(weight[i]); });
  else program([=](std::int64_t i) { return load(dy[i]); });
}

/// dx of all rows and, if `partials` is not null, each block's sums over its rows of what dweight and dbias sum: `cols`
/// of each. Those are kept in shared memory after the rows if they fit.
template <class T, int lanes>
struct LayerNormGradKernel {
  using C = Compute<T>;
  static constexpr int threads = lanes == 32 ? 256 : lanes;
  static constexpr int teams = threads / lanes;
  Rows<T, 2> rows;  // x and dy; dx
  bool rms;
  const T* weight;
  const C *mean, *rstd;
  C* partials;
  bool near, accumulate;

  ANNEAL_DEVICE RowMoments<C> moments(std::int64_t row) const { return {rms ? C(0) : mean[row], rstd[row]}; }

  ANNEAL_DEVICE void operator()(Block& block) const {
    const RowGroup<lanes> team(block);
    const RowGroup<threads> all(block);
    const int number = block.thread() / lanes;
    const std::int64_t cols = rows.cols;
    C* const kept = partials + block.index() * 2 * cols;
    C* const sums = near ? block.shared<C>() + (rows.staged ? teams * 2 * cols * sizeof(T) / sizeof(C) : 0) : kept;
    if (partials) all.each(2 * cols, [=](std::int64_t i) { sums[i] = 0; });
    if (partials) block.sync();
    for (std::int64_t first = block.index() * teams; first < rows.rows; first += block.count() * teams) {
      const std::int64_t row = first + number;
      const bool here = row < rows.rows;
      if (rows.staged) {
        if (here) rows.read(block, team, row);
        block.sync();
      }
      if (partials) {
        const T *const x = rows.in(block, first, 0, 0), *const dy = rows.in(block, first, 0, 1);
        const std::int64_t stride = rows.staged ? 2 * cols : cols;
        const int count = static_cast<int>(std::min<std::int64_t>(teams, rows.rows - first));
        all.each(cols, [=, this](std::int64_t i) {
          C dweight = 0, dbias = 0;
          for (int t = 0; t < count; ++t) {
            const RowMoments<C> m = moments(first + t);
            const C slope = load(dy[t * stride + i]);
            dweight += slope * ((load(x[t * stride + i]) - m.mean) * m.rstd);
            dbias += slope;
          }
          sums[i] += dweight;
          sums[cols + i] += dbias;
        });
        if (rows.staged) block.sync();
      }
      if (here && rows.output) {
        const T *x = rows.in(block, row, number, 0), *dy = rows.in(block, row, number, 1);
        T* const dx = rows.out(block, row, number);
        const T* const before = accumulate ? rows.output + row * cols : nullptr;
        if (rms) layer_norm_grad_row<true>(team, cols, moments(row), x, weight, dy, before, dx);
        else layer_norm_grad_row<false>(team, cols, moments(row), x, weight, dy, before, dx);
      }
      if (rows.staged) {
        block.sync();
        if (here && rows.output) rows.write(block, team, row);
      }
    }
    if (partials && near) all.each(cols, [=](std::int64_t i) { kept[i] = sums[i], kept[cols + i] = sums[cols + i]; });
  }
};

/// dweight and dbias from `n` partial sums each, in order: a warp to 32 columns and a part of the sums.
template <class T>
struct ColumnSumKernel {
  using C = Compute<T>;
  static constexpr int threads = 1024;
  const C* partials;
  std::int64_t n, cols;
  T *dweight, *dbias;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const int warp = block.thread() / 32, warps = threads / 32, lane = block.thread() % 32;
    const std::int64_t column = block.index() * 32 + lane;
    C* const shared = block.shared<C>();
    C total = 0;
    if (column < 2 * cols) {
      for (std::int64_t i = warp; i < n; i += warps) total += partials[i * 2 * cols + column];
    }
    shared[block.thread()] = total;
    block.sync();
    if (warp > 0 || column >= 2 * cols) return;
    for (int w = 1; w < warps; ++w) total += shared[w * 32 + lane];
    if (column < cols && dweight) dweight[column] = store<T>(total);
    if (column >= cols && dbias) dbias[column - cols] = store<T>(total);
  }
};

template <class T, int lanes>
void layer_norm_grad(const LayerNormGrad& a, Stream stream) {
  using C = Compute<T>;
  const Rows<T, 2> rows(a.rows, a.cols, {a.x, a.dy}, a.dx);
  using Kernel = LayerNormGradKernel<T, lanes>;
  constexpr std::int64_t most = 528;  // blocks, all at work at once on the largest devices, each with sums of its own
  const std::int64_t wanted = (a.rows + Kernel::teams - 1) / Kernel::teams;
  const std::int64_t blocks = wanted < most ? wanted : most;
  const bool sums = a.dweight || a.dbias;
  if (!sums && !a.dx) return;
  const std::size_t staged_bytes = rows.shared_bytes(Kernel::teams);
  const std::size_t sum_bytes = 2 * static_cast<std::size_t>(a.cols) * sizeof(C);
  const bool near = sums && staged_bytes + sum_bytes <= shared_limit;
  C* const partials = sums ? static_cast<C*>(workspace(stream, static_cast<std::size_t>(blocks) * sum_bytes)) : nullptr;
  launch(stream, blocks,
         Kernel{rows, a.rms, static_cast<const T*>(a.weight), static_cast<const C*>(a.mean),
                static_cast<const C*>(a.rstd), partials, near, a.accumulate},
         staged_bytes + (near ? sum_bytes : 0));
  if (!sums) return;
  using Columns = ColumnSumKernel<T>;
  launch(stream, (2 * a.cols + 31) / 32,
         Columns{partials, blocks, a.cols, static_cast<T*>(a.dweight), static_cast<T*>(a.dbias)},
         Columns::threads * sizeof(C));
}

struct CheckTargetsKernel {
  static constexpr int threads = 1024;
  CheckTargets a;

  ANNEAL_DEVICE void operator()(Block& block) const {
    std::int64_t count = 0;
    for_each(block, a.rows, [&](std::int64_t r) {
      const std::int64_t index = a.classes[r];
      if (index == a.ignore_index) return;
      ++count;
      if (index < 0 || index >= a.cols) report(a.bad, r);
    });
    count = block_sum(block, count);
    if (block.thread() == 0) *a.count = static_cast<double>(count);
  }
};

}  // namespace

template <>
void run(const Softmax& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    run_rows<T>(stream, SoftmaxProgram<T>{a.log}, {a.rows, a.cols, {a.x}, a.y});
  });
}

template <>
void run(const SoftmaxGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    run_rows<T>(stream, SoftmaxGradProgram<T>{a.log}, {a.rows, a.cols, {a.y, a.dy}, a.dx});
  });
}

template <>
void run(const CheckTargets& a, Stream stream) {
  launch(stream, 1, CheckTargetsKernel{a});
}

template <>
void run(const CrossEntropy& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    const CrossEntropyProgram<T> program{a.targets, static_cast<Compute<T>*>(a.loss), a.dx != nullptr};
    run_rows<T>(stream, program, {a.rows, a.cols, {a.x}, a.dx});
  });
}

template <>
void run(const ScaleRows& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    launch(stream, blocks_for(a.rows, 1),
           ScaleRowsKernel<T>{a.rows, a.cols, static_cast<const T*>(a.x), static_cast<const Compute<T>*>(a.factor),
                              a.shared, static_cast<T*>(a.y)});
  });
}

template <>
void run(const LayerNorm& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    const LayerNormProgram<T> program{a.rms,
                                      static_cast<C>(a.eps),
                                      static_cast<const T*>(a.weight),
                                      static_cast<const T*>(a.bias),
                                      static_cast<C*>(a.mean),
                                      static_cast<C*>(a.rstd),
                                      static_cast<const T*>(a.residual),
                                      static_cast<T*>(a.sum)};
    run_rows<T>(stream, program, {a.rows, a.cols, {a.x}, a.y});
  });
}

template <>
void run(const LayerNormGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    if (Rows<T, 2>::short_rows(a.cols)) layer_norm_grad<T, 32>(a, stream);
    else layer_norm_grad<T, block_lanes>(a, stream);
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
