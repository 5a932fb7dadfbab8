#include "anneal/tests/cuda/cases.h"

#include <algorithm>
#include <stdexcept>

#include "anneal/kernels/pointwise.h"

namespace anneal::gpu_check {

using namespace kernels;

namespace {

template <int operands>
Space<operands> dense(std::int64_t n) {
  Space<operands> space{.rank = 1, .size = {n}, .stride = {}};
  for (auto& stride : space.stride) stride[0] = 1;
  return space;
}
/// [rows, cols]: the first operand is stored transposed, the last one is dense, others are one row for all.
template <int operands>
Space<operands> strided(std::int64_t rows, std::int64_t cols) {
  Space<operands> space{.rank = 2, .size = {rows, cols}, .stride = {}};
  for (auto& stride : space.stride) stride[1] = 1;
  space.stride[0][0] = 1;
  space.stride[0][1] = rows;
  space.stride[operands - 1][0] = cols;
  return space;
}

}  // namespace

void add_pointwise(Cases& all) {
  int op = 0;
  for_each_type(UnaryOps{}, [&]<class Op>() {
    const int id = op++;
    const Range domain{Op::domain_low, Op::domain_high};
    const Range saved = Op::saves == Saves::input ? domain : Range{0.1, 0.9};
    const std::string name = Op::name;
    all.add(name,
            [=](Maker& m) {
              const auto n = count_of(m);
              return Unary{id, m.dtype(), dense<2>(n), m.input(n, domain), m.output(n)};
            })
        .timed = name == "relu" || name == "gelu";
    all.add(name + " grad",
            [=](Maker& m) {
              const auto n = count_of(m);
              return UnaryGrad{id, m.dtype(), dense<3>(n), m.input(n), m.input(n, saved), m.output(n)};
            })
        .timed = name == "relu";
    all.add(name + " grad grad", [=](Maker& m) {
      const auto n = count_of(m);
      return UnaryGradGrad{id, m.dtype(), dense<4>(n), m.input(n), m.input(n), m.input(n, saved), m.output(n)};
    });
  });
  all.add("tanh strided", [](Maker& m) {
    return Unary{unary_id<Tanh>, m.dtype(), strided<2>(rows_of(m), cols_of(m)), m.input(count_of(m)),
                 m.output(count_of(m))};
  });
  all.add("tanh grad strided", [](Maker& m) {
    return UnaryGrad{unary_id<Tanh>,
                     m.dtype(),
                     strided<3>(rows_of(m), cols_of(m)),
                     m.input(count_of(m)),
                     m.input(cols_of(m), {0.1, 0.9}),
                     m.output(count_of(m))};
  });
  op = 0;
  for_each_type(BinaryOps{}, [&]<class Op>() {
    const int id = op++;
    const Range positive{0.25, 2};
    all.add(Op::name,
            [=](Maker& m) {
              const auto n = count_of(m);
              return Binary{id, m.dtype(), dense<3>(n), m.input(n, positive), m.input(n, positive), m.output(n)};
            })
        .timed = id == binary_id<Add>;
    all.add(std::string(Op::name) + " strided", [=](Maker& m) {
      return Binary{id,
                    m.dtype(),
                    strided<3>(rows_of(m), cols_of(m)),
                    m.input(count_of(m), positive),
                    m.input(cols_of(m), positive),
                    m.output(count_of(m))};
    });
  });
  op = 0;
  for_each_type(CompareOps{}, [&]<class Op>() {
    const int id = op++;
    all.add(Op::name, [=](Maker& m) {
      const auto n = count_of(m);
      return Compare{id, m.dtype(), dense<3>(n), m.input(n), m.input(n), m.output_of<bool>(n)};
    });
  });
  all.add("where", [](Maker& m) {
    const auto n = count_of(m);
    return Where{m.dtype(),  dense<4>(n), m.input(n, {-1, 1}, {Kind::fixed, DType::boolean}),
                 m.input(n), m.input(n),  m.output(n)};
  });
  all.add("where strided", [](Maker& m) {
    return Where{m.dtype(),
                 strided<4>(rows_of(m), cols_of(m)),
                 m.input(count_of(m), {0, 1}, {Kind::fixed, DType::boolean}),
                 m.input(cols_of(m)),
                 m.input(cols_of(m)),
                 m.output(count_of(m))};
  });
  for (const DType to : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i64, DType::i32}) {
    all.add(std::string("copy to ") + name_of(to),
            [=](Maker& m) {
              const auto n = count_of(m);
              return Copy{m.dtype(), to, dense<2>(n), m.input(n, {-99, 99}), m.output(n, {Kind::fixed, to})};
            })
        .timed = to == DType::bf16;
  }
  all.add("copy transposed",
          [](Maker& m) {
            return Copy{m.dtype(), m.dtype(), strided<2>(rows_of(m), cols_of(m)), m.input(count_of(m)),
                        m.output(count_of(m))};
          })
      .timed = true;
  all.add("fill", [](Maker& m) {
    const auto n = count_of(m);
    return Fill{m.dtype(), dense<1>(n), 0.75, m.output(n)};
  });
}

// ---- random and reductions ----

void add_random(Cases& all) {
  const auto add = [&](const char* name, Distribution distribution, double a, double b) {
    Case& made = all.add(name, [=](Maker& m) {
      const auto n = count_of(m);
      return Random{distribution, m.dtype(), n, a, b, 7, 13, m.output(n)};
    });
    made.same_dtype = true;
    made.timed = distribution == Distribution::normal;
  };
  add("uniform", Distribution::uniform, -1, 3);
  add("normal", Distribution::normal, 0.5, 2);
  add("integer", Distribution::integer, 0, 100);
  Case& dropout = all.add("dropout", [](Maker& m) {
    const auto n = count_of(m);
    return Dropout{m.dtype(), n, 0.3, 7, 13, m.input(n), m.output(n)};
  });
  dropout.same_dtype = dropout.timed = true;
}

void add_reductions(Cases& all) {
  struct Form {
    const char* name;
    std::int64_t outer, reduced, inner;
  };
  constexpr const char* names[] = {"sum", "mean", "max", "min", "prod"};
  const auto forms_of = [](const Maker& m) {
    const auto rows = rows_of(m), cols = cols_of(m);
    return std::to_array<Form>({{" of rows", rows, cols, 1},
                                {" of columns", 1, rows, cols},
                                {" of all", 1, rows * cols, 1},
                                {" in the middle", 3, rows, cols / 4 + 1}});
  };
  for (std::size_t form = 0; form < 4; ++form) {
    const std::string where = std::array{" of rows", " of columns", " of all", " in the middle"}[form];
    for (int op = 0; op < 5; ++op) {
      for (const Kind out : {element, wide}) {
        if (out.of == Kind::wide && op > 1) continue;
        all.add(std::string(names[op]) + where + (out.of == Kind::wide ? " to f32" : ""),
                [=](Maker& m) {
                  const Form f = forms_of(m)[form];
                  // A product of so many numbers stays finite if they are close to 1; a sum must not cancel to be
                  // comparable.
                  const Range range = op == 4 ? Range{0.999, 1.001} : Range{-1, 2};
                  return Reduce{static_cast<Reduction>(op),
                                m.dtype(),
                                out.of == Kind::wide ? m.wide() : m.dtype(),
                                f.outer,
                                f.reduced,
                                f.inner,
                                m.input(f.outer * f.reduced * f.inner, range),
                                m.output(f.outer * f.inner, out)};
                })
            .timed = op == 0 && out.of == Kind::element;
      }
    }
    for (const bool largest : {false, true}) {
      all.add(std::string(largest ? "argmax" : "argmin") + where, [=](Maker& m) {
        const Form f = forms_of(m)[form];
        return ArgReduce{largest,
                         m.dtype(),
                         f.outer,
                         f.reduced,
                         f.inner,
                         m.input(f.outer * f.reduced * f.inner),
                         m.output_of<std::int64_t>(f.outer * f.inner)};
      });
    }
  }
}

const std::vector<Case>& cases() {
  static const std::vector<Case> list = [] {
    Cases all;
    const auto add = [&](const char* group, void (*add_to)(Cases&)) {
      all.group = group;
      add_to(all);
    };
    add("products", add_products);
    add("convolutions", add_convolutions);
    add("pointwise", add_pointwise);
    add("reductions", add_reductions);
    add("rowwise", add_rowwise);
    add("norms", add_norms);
    add("attention", add_attention);
    add("pooling", add_pooling);
    add("indexing", add_indexing);
    add("optimizers", add_optimizers);
    add("random", add_random);
    for (int kernel = 0; kernel < Kernels::size; ++kernel) {
      if (std::none_of(all.list.begin(), all.list.end(), [&](const Case& c) { return c.kernel == kernel; }))
        throw std::logic_error("kernel " + std::to_string(kernel) + " of kernels::Kernels has no case");
    }
    return std::move(all.list);
  }();
  return list;
}

}  // namespace anneal::gpu_check
