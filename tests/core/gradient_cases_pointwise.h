// The differentiable ops that work element by element, reduce, or move elements.
#pragma once

#include "anneal/tests/core/gradient_cases.h"

namespace anneal::testing {

inline void add_unary_cases(std::vector<GradientCase>& cases) {
  for_each_type(kernels::UnaryOps{}, [&]<class Op>() {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{2, 0, 3}, Shape{3, 5}, Shape{2, 3, 2, 1}}) {
      cases.push_back({format("{} {}", Op::name, shape), {{shape, Op::domain_low, Op::domain_high}}, [](Inputs x) {
                         return unary<Op>(x[0]);
                       }});
    }
  });
}

inline void add_binary_cases(std::vector<GradientCase>& cases) {
  struct Binary {
    const char* name;
    Tensor (*f)(const Tensor&, const Tensor&);
    double low, high;
    Second second;
  };
  // The sign of `a` decides whether a power is defined; a quotient needs distance from 0.
  const Binary ops[] = {
      {"add", add, -2, 2, Second::constant},
      {"sub", sub, -2, 2, Second::constant},
      {"mul", mul, -2, 2, Second::checked},
      {"div", div, 0.5, 2, Second::checked},
      {"pow", pow, 0.5, 2, Second::checked},
      {"maximum", maximum, -2, 2, Second::constant},
      {"minimum", minimum, -2, 2, Second::constant},
      {"operator+", operator+, -2, 2, Second::constant},
      {"operator-", operator-, -2, 2, Second::constant},
      {"operator*", operator*, -2, 2, Second::checked},
      {"operator/", operator/, 0.5, 2, Second::checked},
  };
  const std::pair<Shape, Shape> shapes[] = {
      {{}, {}},         {{0}, {0}},   {{1}, {1}},          {{3, 5}, {3, 5}}, {{3, 5}, {5}},
      {{3, 1}, {1, 5}}, {{}, {2, 3}}, {{2, 1, 3}, {4, 1}}, {{2, 0}, {1, 1}}, {{1, 2, 1}, {3, 1, 1}}};
  for (const Binary& op : ops) {
    for (const auto& [a, b] : shapes) {
      cases.push_back({format("{} {} {}", op.name, a, b),
                       {{a, op.low, op.high}, {b, op.low, op.high}},
                       [f = op.f](Inputs x) { return f(x[0], x[1]); },
                       op.second});
    }
    cases.push_back({format("{} with itself", op.name),
                     {{{2, 3}, 0.5, 2}},
                     [f = op.f](Inputs x) { return f(x[0], x[0] * 1.5); },
                     op.second});
  }
}

inline void add_scalar_cases(std::vector<GradientCase>& cases) {
  const GradientInput x{{2, 3}, 0.3, 2};
  const auto add = [&](const char* name, Function f, Second second = Second::checked) {
    cases.push_back({name, {x}, std::move(f), second});
  };
  add(
      "operator+ scalar", [](Inputs x) { return x[0] + 2; }, Second::constant);
  add(
      "operator+ scalar first", [](Inputs x) { return 2 + x[0]; }, Second::constant);
  add(
      "operator- scalar", [](Inputs x) { return x[0] - 2; }, Second::constant);
  add(
      "operator- scalar first", [](Inputs x) { return 2 - x[0]; }, Second::constant);
  add("operator- negation", [](Inputs x) { return -x[0]; });
  add(
      "operator* scalar", [](Inputs x) { return x[0] * 3; }, Second::constant);
  add(
      "operator* scalar first", [](Inputs x) { return 3 * x[0]; }, Second::constant);
  add(
      "operator/ scalar", [](Inputs x) { return x[0] / 3; }, Second::constant);
  add("operator/ scalar first", [](Inputs x) { return 3 / x[0]; });
  for (const double exponent : {-1.5, 0.0, 1.0, 2.0, 2.5})
    cases.push_back({format("pow scalar {}", exponent), {x}, [exponent](Inputs x) { return pow(x[0], exponent); }});
  // Negative numbers have whole powers.
  cases.push_back({"pow scalar of negatives", {{{2, 3}, -2, -0.3}}, [](Inputs x) { return pow(x[0], 3); }});
  cases.push_back(
      {"clamp inside and outside", {{{4, 5}}}, [](Inputs x) { return clamp(x[0], -0.7, 1.1); }, Second::constant});
  cases.push_back({"clamp empty", {{{0, 5}}}, [](Inputs x) { return clamp(x[0], -0.7, 1.1); }, Second::constant});
}

inline void add_choice_cases(std::vector<GradientCase>& cases) {
  const Tensor mask = flags({1, 0, 1, 0, 0, 1}, {2, 3});
  const Tensor row = flags({0, 1, 1}, {3});
  const Tensor none = flags({}, {0, 3});
  const auto choose = [](const Tensor& m) { return [m](Inputs x) { return where(m, x[0], x[1]); }; };
  cases.push_back({"where", {{{2, 3}}, {{2, 3}}}, choose(mask), Second::constant});
  cases.push_back({"where broadcast", {{{2, 1}}, {{}}}, choose(row), Second::constant});
  cases.push_back({"where condition largest", {{{1}}, {{3}}}, choose(mask), Second::constant});
  cases.push_back({"where empty", {{{0, 3}}, {{1, 3}}}, choose(none), Second::constant});
  const auto fill = [](const Tensor& m) { return [m](Inputs x) { return masked_fill(x[0], m, -7); }; };
  cases.push_back({"masked_fill", {{{2, 3}}}, fill(mask), Second::constant});
  cases.push_back({"masked_fill row", {{{2, 3}}}, fill(row), Second::constant});
  cases.push_back({"masked_fill larger mask", {{{1, 3}}}, fill(mask), Second::constant});
  for (const double p : {0.0, 0.4, 1.0}) {
    cases.push_back({format("dropout {}", p),
                     {{{5, 7}}},
                     [p](Inputs x) {
                       Generator generator(11);
                       return dropout(x[0], p, generator);
                     },
                     Second::constant});
  }
}

inline void add_reduction_cases(std::vector<GradientCase>& cases) {
  struct Reduction {
    const char* name;
    Tensor (*f)(const Tensor&, std::span<const int>, bool);
    bool of_empty;
    Second second;
  };
  const Reduction ops[] = {
      {"sum", sum, true, Second::constant},
      {"mean", mean, true, Second::constant},
      {"amax", amax, false, Second::constant},
      {"amin", amin, false, Second::constant},
      {"logsumexp", logsumexp, false, Second::checked},
      {"var", [](const Tensor& x, std::span<const int> dims, bool keepdim) { return var(x, dims, 1, keepdim); }, false,
       Second::checked},
      {"var uncorrected",
       [](const Tensor& x, std::span<const int> dims, bool keepdim) { return var(x, dims, 0, keepdim); }, false,
       Second::checked},
  };
  const std::vector<int> choices[] = {{}, {0}, {1}, {-1}, {0, 2}, {1, 2}, {2, 0, 1}};
  for (const Reduction& op : ops) {
    for (const auto& dims : choices) {
      for (const bool keepdim : {false, true}) {
        std::string text;
        for (const int dim : dims) text += " " + std::to_string(dim);
        cases.push_back({format("{} of dims{}{}", op.name, text, keepdim ? " keepdim" : ""),
                         {{{2, 3, 4}}},
                         [f = op.f, dims, keepdim](Inputs x) { return f(x[0], dims, keepdim); },
                         op.second});
      }
    }
    cases.push_back(
        {format("{} scalar", op.name), {{{}}}, [f = op.f](Inputs x) { return f(x[0], {}, false) * 1; }, op.second});
    const std::vector<int> last{-1};
    cases.push_back(
        {format("{} no rows", op.name), {{{0, 3}}}, [=](Inputs x) { return op.f(x[0], last, false); }, op.second});
    if (op.of_empty)
      cases.push_back(
          {format("{} empty rows", op.name), {{{3, 0}}}, [=](Inputs x) { return op.f(x[0], last, false); }, op.second});
  }
  std::erase_if(cases, [](const GradientCase& c) { return c.name == "var scalar"; });  // 0 / 0
  for (const int dim : {0, 1, -1}) {
    cases.push_back({format("prod {}", dim), {{{2, 3, 3}}}, [dim](Inputs x) { return prod(x[0], dim); }});
    cases.push_back({format("prod {} keepdim", dim), {{{2, 3, 3}}}, [dim](Inputs x) { return prod(x[0], dim, true); }});
  }
  cases.push_back({"prod with zeros", {{{3, 4}, 0.5, 2}}, [](Inputs x) {
                     return prod(masked_fill(x[0], flags({1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0}, {3, 4}), 0), 1);
                   }});
  cases.push_back({"prod empty", {{{3, 0}}}, [](Inputs x) { return prod(x[0], 1); }, Second::constant});
  for (const Shape& to : {Shape{}, Shape{4}, Shape{1, 4}, Shape{3, 1}, Shape{2, 1, 4}, Shape{2, 3, 4}, Shape{1, 1, 1}})
    cases.push_back(
        {format("sum_to {}", to), {{{2, 3, 4}}}, [to](Inputs x) { return sum_to(x[0], to) * 1; }, Second::constant});
}

inline void add_view_cases(std::vector<GradientCase>& cases) {
  // Through `* 1`, as some return their input itself, which a gradient goes to without passing an op.
  const auto add = [&](const char* name, const Shape& shape, Tensor (*f)(const Tensor&)) {
    cases.push_back({name, {{shape}}, [f](Inputs x) { return f(x[0]) * 1; }, Second::constant});
  };
  add("to the same", {2, 3}, [](const Tensor& x) { return x.to(DType::f64).to(Device{}); });
  add("clone", {2, 3}, [](const Tensor& x) { return x.clone(); });
  add("clone empty", {2, 0}, [](const Tensor& x) { return x.clone(); });
  add("contiguous", {2, 3}, [](const Tensor& x) { return x.transpose(0, 1).contiguous(); });
  add("reshape", {2, 6}, [](const Tensor& x) { return x.reshape({3, -1}); });
  add("reshape with a copy", {2, 6}, [](const Tensor& x) { return x.transpose(0, 1).reshape({4, 3}); });
  add("reshape empty", {2, 0}, [](const Tensor& x) { return x.reshape({0, 5}); });
  add("reshape to a scalar", {1, 1}, [](const Tensor& x) { return x.reshape({}); });
  add("view", {2, 6}, [](const Tensor& x) { return x.contiguous().view({2, 3, 2}); });
  add("view of a slice", {4, 6}, [](const Tensor& x) { return x.contiguous().slice(1, 1, 5).view({2, 2, 2, 2}); });
  add("flatten", {2, 3, 4}, [](const Tensor& x) { return x.flatten(); });
  add("flatten some", {2, 3, 4}, [](const Tensor& x) { return x.flatten(1, -1); });
  add("flatten scalar", {}, [](const Tensor& x) { return x.flatten(); });
  add("transpose", {2, 3, 4}, [](const Tensor& x) { return x.transpose(0, -1); });
  add("permute", {2, 3, 4, 2}, [](const Tensor& x) { return x.permute({3, 1, 0, 2}); });
  add("permute scalar", {}, [](const Tensor& x) { return x.permute({}); });
  add("slice", {5, 4}, [](const Tensor& x) { return x.slice(0, 1, 4); });
  add("slice steps", {7, 4}, [](const Tensor& x) { return x.slice(0, 1, 7, 3).slice(1, -3, 100, 2); });
  add("slice to nothing", {5, 4}, [](const Tensor& x) { return x.slice(1, 3, 1); });
  add("select", {3, 4}, [](const Tensor& x) { return x.select(1, -2); });
  add("select of a vector", {3}, [](const Tensor& x) { return x.select(0, 1); });
  add("expand", {3, 1}, [](const Tensor& x) { return x.expand({2, 3, 4}); });
  add("expand a scalar", {}, [](const Tensor& x) { return x.expand({2, 2}); });
  add("expand to nothing", {1, 3}, [](const Tensor& x) { return x.expand({0, 3}); });
  add("squeeze", {2, 1, 3}, [](const Tensor& x) { return x.squeeze(-2); });
  add("unsqueeze", {2, 3}, [](const Tensor& x) { return x.unsqueeze(-1).unsqueeze(0); });
  add("split", {7, 2}, [](const Tensor& x) {
    const std::vector<Tensor> pieces = split(x, 3);
    return pieces[2] * 5 + pieces[0].slice(0, 1, 2);
  });
  const auto join = [&](const char* name, std::vector<GradientInput> inputs, Function f) {
    cases.push_back({name, std::move(inputs), std::move(f), Second::constant});
  };
  join("cat", {{{2, 3}}, {{1, 3}}, {{0, 3}}}, [](Inputs x) { return cat(x); });
  join("cat last dimension", {{{2, 3}}, {{2, 1}}}, [](Inputs x) { return cat({x[1], x[0], x[1]}, -1); });
  join("cat one", {{{2, 3}}}, [](Inputs x) { return cat(x, 1); });
  join("stack", {{{2, 3}}, {{2, 3}}}, [](Inputs x) { return stack(x, 1); });
  join("stack behind", {{{3}}, {{3}}, {{3}}}, [](Inputs x) { return stack({x[0], x[1], x[2], x[0]}, -1); });
  join("stack scalars", {{{}}, {{}}}, [](Inputs x) { return stack(x); });
}

inline void add_index_cases(std::vector<GradientCase>& cases) {
  const auto add = [&](const char* name, std::vector<GradientInput> inputs, Function f) {
    cases.push_back({name, std::move(inputs), std::move(f), Second::constant});
  };
  const Tensor rows = indices({2, 0, 2, 1, 1, 0}, {2, 3});
  add("gather 0", {{{3, 4}}}, [=](Inputs x) { return gather(x[0], 0, rows); });
  add("gather -1", {{{2, 4}}}, [=](Inputs x) { return gather(x[0], -1, rows); });
  add("gather nothing", {{{3, 4}}}, [](Inputs x) { return gather(x[0], 0, indices({}, {0, 4})); });
  add("scatter_add 0", {{{3, 4}}, {{2, 3}}}, [=](Inputs x) { return scatter_add(x[0], 0, rows, x[1]); });
  add("scatter_add 1", {{{2, 4}}, {{2, 3}}}, [=](Inputs x) { return scatter_add(x[0], 1, rows, x[1]); });
  add("scatter_add nothing", {{{3, 4}}, {{0, 4}}}, [](Inputs x) {
    return scatter_add(x[0], 0, indices({}, {0, 4}), x[1]);
  });
  const Tensor some = indices({3, 1, 1}, {3});
  add("index_select 0", {{{4, 2}}}, [=](Inputs x) { return index_select(x[0], 0, some); });
  add("index_select middle", {{{2, 4, 3}}}, [=](Inputs x) { return index_select(x[0], 1, some); });
  add("index_select nothing", {{{4, 2}}}, [](Inputs x) { return index_select(x[0], 0, indices({}, {0})); });
  add("embedding", {{{4, 3}}}, [=](Inputs x) { return embedding(rows, x[0]); });
  add("embedding no words", {{{4, 3}}}, [](Inputs x) { return embedding(indices({}, {2, 0}), x[0]); });
}

}  // namespace anneal::testing
