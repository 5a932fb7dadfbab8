#include <algorithm>
#include <cmath>

#include "anneal/tests/cuda/cases.h"

namespace anneal::gpu_check {

using namespace kernels;

namespace {

/// As many classes as the rows that cross-entropy is used with: few, or a vocabulary.
std::int64_t classes_of(const Maker& m) { return m.pick(4, 131, 1000, 10007, 50304); }
std::int64_t samples_of(const Maker& m) { return m.pick(3, 17, 64, 200, 4096); }

/// Classes of samples; some are ignored (-1) and, at odd sizes, one does not exist.
const std::int64_t* classes(Maker& m, std::int64_t n, std::int64_t limit) {
  std::vector<std::int64_t> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = i % 7 == 6 ? -1 : static_cast<std::int64_t>(i * 31 % static_cast<std::size_t>(limit));
  if (m.size() == Size::odd) v[3] = limit;
  return m.values(v);
}
/// The word where a bad index is left.
std::int64_t* bad_word(Maker& m) { return m.values(std::vector<std::int64_t>{-1}, DType::i64, true); }

}  // namespace

void add_pooling(Cases& all) {
  struct Form {
    const char* name;
    PoolShape small;
  };
  for (const Form& f : {Form{"", {6, 28, 28, 2, 2, 2, 2, 0, 0}}, Form{" overlapping", {5, 13, 11, 3, 3, 2, 2, 1, 1}},
                        Form{" odd", {7, 9, 17, 3, 2, 1, 3, 1, 0}}, Form{" global", {9, 7, 7, 7, 7, 7, 7, 0, 0}}}) {
    const auto shape_of = [=](const Maker& m) {
      PoolShape s = f.small;
      s.planes *= m.pick(1, 3, 8, 300, 5000);
      return s;
    };
    const auto x_size = [](const PoolShape& s) { return s.planes * s.h * s.w; };
    const auto y_size = [](const PoolShape& s) { return s.planes * s.out_h() * s.out_w(); };
    const bool timed = std::string(f.name).empty();
    all.add(std::string("max pool") + f.name,
            [=](Maker& m) {
              const PoolShape s = shape_of(m);
              return MaxPool2d{m.dtype(), s, m.input(x_size(s)), m.output(y_size(s)),
                               m.output_of<std::int32_t>(y_size(s))};
            })
        .timed = timed;
    all.add(std::string("max pool grad") + f.name,
            [=](Maker& m) {
              const PoolShape s = shape_of(m);
              // Where the maxima were: any place of each window.
              std::vector<std::int32_t> index;
              for (std::int64_t i = 0; i < y_size(s); ++i) {
                const auto at = i % (s.out_h() * s.out_w());
                const auto inside = [&](std::int64_t start, std::int64_t kernel, std::int64_t size) {
                  return std::clamp(start + i % kernel, std::int64_t{0}, size - 1);
                };
                const auto row = inside(at / s.out_w() * s.stride_h - s.padding_h, s.kernel_h, s.h);
                const auto col = inside(at % s.out_w() * s.stride_w - s.padding_w, s.kernel_w, s.w);
                index.push_back(static_cast<std::int32_t>(row * s.w + col));
              }
              return MaxPool2dGrad{m.dtype(), s, m.input(y_size(s)), m.values(index), m.output(x_size(s))};
            })
        .timed = timed;
    for (const bool padding : {false, true}) {
      const std::string name = std::string(f.name) + (padding ? " with padding" : "");
      all.add("average pool" + name, [=](Maker& m) {
        const PoolShape s = shape_of(m);
        return AvgPool2d{m.dtype(), s, padding, m.input(x_size(s)), m.output(y_size(s))};
      });
      all.add("average pool grad" + name, [=](Maker& m) {
        const PoolShape s = shape_of(m);
        return AvgPool2dGrad{m.dtype(), s, padding, m.input(y_size(s)), m.output(x_size(s))};
      });
    }
  }
}

void add_rowwise(Cases& all) {
  for (const bool log : {false, true}) {
    const std::string name = log ? "log softmax" : "softmax";
    all.add(name,
            [=](Maker& m) {
              return Softmax{m.dtype(), log, rows_of(m), cols_of(m), m.input(count_of(m)), m.output(count_of(m))};
            })
        .timed = true;
    all.add(name + " grad",
            [=](Maker& m) {
              const Range y = log ? Range{-5, -0.1} : Range{0, 0.1};
              return SoftmaxGrad{m.dtype(),
                                 log,
                                 rows_of(m),
                                 cols_of(m),
                                 m.input(count_of(m), y),
                                 m.input(count_of(m)),
                                 m.output(count_of(m))};
            })
        .timed = true;
  }
  all.add("check targets",
          [](Maker& m) {
            const auto n = count_of(m), limit = classes_of(m);
            return CheckTargets{n, limit, classes(m, n, limit), -1, m.output_of<double>(1), bad_word(m)};
          })
      .dtypes = {DType::f32};
  for (const bool probabilities : {false, true}) {
    for (const double smoothing : {0.0, 0.1}) {
      const std::string form =
          std::string(probabilities ? " of probabilities" : "") + (smoothing > 0 ? " smoothed" : "");
      const auto targets = [=](Maker& m) {
        const auto rows = samples_of(m), cols = classes_of(m);
        Targets t{nullptr, nullptr, -1, smoothing, nullptr};
        if (probabilities) t.probabilities = m.input(rows * cols, {0, 2.0 / static_cast<double>(cols)});
        else t.classes = classes(m, rows, cols);
        t.count = m.values(std::vector<double>{0.5});
        return t;
      };
      for (const bool differentiated : {false, true}) {
        all.add("cross entropy" + form + (differentiated ? " and gradient" : ""),
                [=](Maker& m) {
                  const auto rows = samples_of(m), cols = classes_of(m);
                  const void* x = m.input(rows * cols);
                  const Targets t = targets(m);
                  return CrossEntropy{m.dtype(),
                                      rows,
                                      cols,
                                      x,
                                      t,
                                      m.output(rows, wide),
                                      differentiated ? m.output(rows * cols) : nullptr};
                })
            .timed = form.empty();
      }
    }
  }
  for (const bool shared : {false, true}) {
    all.add(shared ? "scale rows alike" : "scale rows",
            [=](Maker& m) {
              const auto rows = samples_of(m), cols = classes_of(m);
              return ScaleRows{m.dtype(),
                               rows,
                               cols,
                               m.input(rows * cols),
                               m.input(shared ? 1 : rows, {}, wide),
                               shared,
                               m.output(rows * cols)};
            })
        .timed = shared;
  }
}

void add_norms(Cases& all) {
  for (const bool rms : {false, true}) {
    const std::string name = rms ? "rms norm" : "layer norm";
    for (const bool affine : {false, true}) {
      all.add(name + (affine ? " affine" : ""),
              [=](Maker& m) {
                const auto rows = rows_of(m), cols = cols_of(m);
                const void* x = m.input(rows * cols, {-2, 3});
                const void* weight = affine ? m.input(cols) : nullptr;
                const void* bias = affine && !rms ? m.input(cols) : nullptr;
                return LayerNorm{m.dtype(),
                                 rms,
                                 rows,
                                 cols,
                                 1e-5,
                                 x,
                                 weight,
                                 bias,
                                 m.output(rows * cols),
                                 m.output(rows, wide),
                                 m.output(rows, wide)};
              })
          .timed = affine;
      Case& of_sum = all.add(name + " of a sum" + (affine ? " affine" : ""), [=](Maker& m) {
        const auto rows = rows_of(m), cols = cols_of(m);
        const void *x = m.input(rows * cols, {-2, 3}), *residual = m.input(rows * cols, {-1, 1});
        const void* weight = affine ? m.input(cols) : nullptr;
        void *y = m.output(rows * cols), *sum = m.output(rows * cols);
        return LayerNorm{m.dtype(), rms, rows, cols, 1e-5, x, weight, nullptr, y, nullptr, nullptr, residual, sum};
      });
      of_sum.tolerance = 4;  // what is normalised was rounded to the dtype
      Case& grad = all.add(name + " grad" + (affine ? " affine" : " accumulate"), [=](Maker& m) {
        const auto rows = rows_of(m), cols = cols_of(m);
        const void* x = m.input(rows * cols);
        const void* weight = affine ? m.input(cols) : nullptr;
        const void* mean = rms ? m.input(rows, {0, 0}, wide) : m.input(rows, {-0.1, 0.1}, wide);
        const void* rstd = m.input(rows, {0.8, 0.9}, wide);
        const void* dy = m.input(rows * cols);
        void* dx = affine ? m.output(rows * cols) : m.in_out(rows * cols);
        return LayerNormGrad{m.dtype(),
                             rms,
                             rows,
                             cols,
                             x,
                             weight,
                             mean,
                             rstd,
                             dy,
                             dx,
                             affine ? m.output(cols) : nullptr,
                             affine && !rms ? m.output(cols) : nullptr,
                             !affine};
      });
      grad.timed = affine;
      grad.tolerance = 4;  // long sums that nearly cancel
    }
  }
  for (const int form : {0, 1, 2}) {
    const bool training = form > 0;
    const Kind kind = form == 2 ? wide : element;  // of the parameters
    for (const std::int64_t inner : {1, 49}) {
      const std::string name = std::string(training ? " in training" : "") + (inner > 1 ? " of images" : "") +
                               (form == 2 ? ", wide parameters" : "");
      const auto parameters = [=](const Maker& m) { return form == 2 ? m.wide() : m.dtype(); };
      const auto n_of = [](const Maker& m) { return m.pick(3, 17, 64, 500, 2048); };
      const auto c_of = [](const Maker& m) { return m.pick(2, 13, 32, 100, 256); };
      all.add("batch norm" + name,
              [=](Maker& m) {
                const auto n = n_of(m), c = c_of(m), size = n * c * inner;
                const void* x = m.input(size, {-2, 3});
                const void* weight = m.input(c, {}, kind);
                const void* bias = m.input(c, {}, kind);
                void* y = m.output(size);
                void* mean = training ? m.in_out(c, {}, kind) : const_cast<void*>(m.input(c, {}, kind));
                void* var = training ? m.in_out(c, {0.5, 2}, kind) : const_cast<void*>(m.input(c, {0.5, 2}, kind));
                return BatchNorm{
                    m.dtype(), parameters(m),     training,         n, c, inner, 1e-5, 0.1, x, weight, bias, y, mean,
                    var,       m.output(c, wide), m.output(c, wide)};
              })
          .timed = inner > 1;
      Case& grad = all.add("batch norm grad" + name, [=](Maker& m) {
        const auto n = n_of(m), c = c_of(m), size = n * c * inner;
        const void* x = m.input(size);
        const void* weight = m.input(c, {}, kind);
        const void* mean = m.input(c, {-0.1, 0.1}, wide);
        const void* rstd = m.input(c, {0.8, 0.9}, wide);
        return BatchNormGrad{
            m.dtype(),      parameters(m),     training,         n, c, inner, x, weight, mean, rstd, m.input(size),
            m.output(size), m.output(c, kind), m.output(c, kind)};
      });
      grad.timed = inner > 1;
      grad.tolerance = 4;
    }
  }
}

void add_indexing(Cases& all) {
  for (const int dim : {0, 1}) {
    const std::string name = dim == 0 ? " rows" : " columns";
    // x is [rows, cols]; the index has as many rows or columns, and reads others.
    const auto strides = [](auto args, std::int64_t cols) {
      args.x_stride[0] = cols;
      args.x_stride[1] = 1;
      return args;
    };
    all.add("gather" + name, [=](Maker& m) {
      const auto rows = rows_of(m), cols = cols_of(m), size = dim == 0 ? rows : cols;
      const void* x = m.input(rows * cols);
      const std::int64_t* index = m.indices(rows * cols, size);
      return strides(Gather{.dtype = m.dtype(),
                            .rank = 2,
                            .dim = dim,
                            .size = {rows, cols},
                            .x_stride = {},
                            .x_size = size,
                            .x = x,
                            .index = index,
                            .y = m.output(rows * cols),
                            .bad = bad_word(m)},
                     cols);
    });
    Case& scatter = all.add("scatter add" + name, [=](Maker& m) {
      const auto rows = rows_of(m), cols = cols_of(m), size = dim == 0 ? rows : cols;
      void* x = m.in_out(rows * cols);
      const std::int64_t* index = m.indices(rows * cols, size);
      return strides(ScatterAdd{.dtype = m.dtype(),
                                .rank = 2,
                                .dim = dim,
                                .size = {rows, cols},
                                .x_stride = {},
                                .x_size = size,
                                .x = x,
                                .index = index,
                                .src = m.input(rows * cols),
                                .bad = bad_word(m)},
                     cols);
    });
    scatter.tolerance = 16;  // each addition rounds to the dtype
  }
  all.add("embedding",
          [](Maker& m) {
            const std::int64_t n = rows_of(m) * 3, rows = m.pick(7, 50, 100, 5000, 50304),
                               cols = m.pick(5, 33, 64, 768, 768);
            const void* table = m.input(rows * cols);
            const std::int64_t* index = m.indices(n, rows);
            return Embedding{m.dtype(), n, rows, cols, table, index, m.output(n * cols), bad_word(m)};
          })
      .timed = true;
  for (const bool accumulate : {false, true}) {
    Case& grad = all.add(std::string("embedding grad") + (accumulate ? " accumulate" : ""), [=](Maker& m) {
      const std::int64_t n = rows_of(m) * 3, rows = m.pick(7, 50, 100, 5000, 50304), cols = m.pick(5, 33, 64, 768, 768);
      const std::int64_t* index = m.indices(n, rows);
      const void* dy = m.input(n * cols);
      return EmbeddingGrad{m.dtype(), n,     rows, cols,
                           2,         index, dy,   accumulate ? m.in_out(rows * cols) : m.output(rows * cols),
                           accumulate};
    });
    grad.timed = !accumulate;
    grad.tolerance = 16;
  }
}

void add_optimizers(Cases& all) {
  // An arena of blocks of odd sizes with gaps, one of them inactive.
  struct Arena {
    std::vector<Block> blocks;
    std::int64_t size = 3;
  };
  const auto arena_of = [](const Maker& m) {
    Arena arena;
    for (int i = 0; i < 5; ++i) {
      const std::int64_t n = m.pick(3, 1001, 4096, 70001, 5000000) * (i + 1);
      arena.blocks.push_back({arena.size, arena.size + n, i % 2, i != 2});
      arena.size += n + i;
    }
    return arena;
  };
  const auto groups = [](bool adam) {
    OptimGroup a{.lr = 0.01,
                 .beta1 = 0.9,
                 .beta2 = 0.99,
                 .eps = 1e-8,
                 .weight_decay = 0.1,
                 .momentum = 0.9,
                 .dampening = 0.1,
                 .nesterov = false,
                 .maximize = false,
                 .decoupled = adam};
    OptimGroup b = a;
    b.decoupled = false;
    b.maximize = true;
    b.dampening = 0;
    b.nesterov = !adam;
    return std::vector<OptimGroup>{a, b};
  };
  const auto step = [=](Maker& m, bool twin, bool adam) {
    const Arena arena = arena_of(m);
    OptimStep s{.dtype = m.dtype(),
                .twin_dtype = DType::bf16,
                .blocks = m.values(arena.blocks),
                .n_blocks = 5,
                .groups = m.values(groups(adam)),
                .steps = m.values(std::vector<std::int64_t>{0, 3, 1, 8, 2}, DType::i64, true),
                .state = nullptr,
                .clip_value = 0.8,
                .gradients = nullptr,
                .values = nullptr,
                .twin = nullptr};
    StepState state;
    state.factor = 0.5;
    s.state = m.values(std::vector<StepState>{state});
    s.gradients = m.input(arena.size);
    s.values = m.in_out(arena.size);
    if (twin) {
      s.twin = m.in_out(arena.size, {}, {Kind::fixed, DType::bf16});
      s.average = m.in_out(arena.size, {}, wide);
      s.decay = 0.9;
    }
    return s;
  };
  for (const bool twin : {false, true}) {
    const std::string form = twin ? " with twin and average" : "";
    Case& adam = all.add("adam" + form, [=](Maker& m) {
      AdamStep args{step(m, twin, true), nullptr, nullptr};
      const std::int64_t n = arena_of(m).size;
      args.exp_avg = m.in_out(n, {-1, 1}, wide);
      args.exp_avg_sq = m.in_out(n, {0.5, 1}, wide);
      return args;
    });
    Case& sgd = all.add("sgd" + form, [=](Maker& m) {
      SgdStep args{step(m, twin, false), nullptr};
      args.momentum = m.in_out(arena_of(m).size, {-1, 1}, wide);
      return args;
    });
    adam.timed = sgd.timed = true;
  }
  for (const double p : {1.0, 2.0, 3.0, static_cast<double>(INFINITY)}) {
    Case& sum = all.add("gradient sum p=" + std::to_string(static_cast<int>(std::isinf(p) ? 0 : p)), [=](Maker& m) {
      const Arena arena = arena_of(m);
      const Block* blocks = m.values(arena.blocks);
      const void* gradients = m.input(arena.size);
      return GradientSum{m.dtype(), blocks, 5, gradients, p, m.values(std::vector<StepState>(1), DType::f64, true)};
    });
    sum.timed = p == 2;
  }
  for (const bool scaler : {false, true}) {
    for (const double total : {9.0, static_cast<double>(INFINITY)}) {
      all.add(std::string("step factor") + (scaler ? " with scaler" : "") + (std::isinf(total) ? " overflow" : ""),
              [=](Maker& m) {
                StepState state;
                state.total = total;
                state.scale = 4;
                state.good_steps = 9;
                return StepFactor{
                    m.values(std::vector<StepState>{state}, DType::f64, true), 2, 0.5, 0.25, scaler, 2, 0.5, 10};
              })
          .dtypes = {DType::f32};
    }
  }
}

}  // namespace anneal::gpu_check
