// The differentiable ops that layers and losses are made of.
#pragma once

#include "anneal/tests/core/gradient_cases.h"

namespace anneal::testing {

inline void add_linear_cases(std::vector<GradientCase>& cases) {
  const std::pair<Shape, Shape> products[] = {
      {{3, 4}, {4, 2}},       {{1, 1}, {1, 1}},    {{4}, {4}},          {{3, 4}, {4}},
      {{4}, {4, 2}},          {{2, 3, 4}, {4, 2}}, {{3, 4}, {2, 4, 2}}, {{2, 1, 3, 4}, {5, 4, 2}},
      {{2, 3, 4}, {2, 4, 5}}, {{2, 3, 4}, {4}},    {{0, 3}, {3, 2}},    {{2, 0}, {0, 3}},
      {{0, 2, 3}, {3, 2}}};
  for (const auto& [a, b] : products)
    cases.push_back({format("matmul {} {}", a, b), {{a}, {b}}, [](Inputs x) { return matmul(x[0], x[1]); }});
  cases.push_back({"matmul with itself", {{{3, 3}}}, [](Inputs x) { return matmul(x[0], x[0].transpose(0, 1)); }});
  for (const Shape& x : {Shape{3, 4}, Shape{4}, Shape{2, 3, 4}, Shape{1, 4}, Shape{0, 4}}) {
    cases.push_back(
        {format("linear {}", x), {{x}, {{5, 4}}, {{5}}}, [](Inputs x) { return linear(x[0], x[1], x[2]); }});
    cases.push_back(
        {format("linear {} without bias", x), {{x}, {{5, 4}}}, [](Inputs x) { return linear(x[0], x[1]); }});
    cases.push_back({format("linear {} relu", x), {{x}, {{5, 4}}, {{5}}}, [](Inputs x) {
                       return linear(x[0], x[1], x[2], Activation::relu);
                     }});
    cases.push_back({format("linear {} gelu", x),
                     {{x}, {{5, 4}}},
                     [](Inputs x) { return linear(x[0], x[1], {}, Activation::gelu); },
                     Second::throws});
  }
}

inline void add_image_cases(std::vector<GradientCase>& cases) {
  struct Conv {
    const char* name;
    Shape x, weight;
    Conv2dOptions options;
  };
  const Conv convs[] = {
      {"plain", {2, 3, 4, 5}, {2, 3, 3, 2}, {}},
      {"1x1", {2, 3, 3, 3}, {4, 3, 1, 1}, {}},
      {"padding", {1, 2, 3, 3}, {2, 2, 3, 3}, {.padding = {1, 2}}},
      {"stride", {2, 2, 5, 6}, {3, 2, 2, 3}, {.stride = {2, 3}, .padding = 1}},
      {"dilation", {1, 2, 6, 5}, {2, 2, 2, 2}, {.dilation = {3, 2}}},
      {"groups", {2, 4, 3, 3}, {6, 2, 2, 2}, {.groups = 2}},
      {"depthwise", {1, 3, 4, 4}, {3, 1, 3, 3}, {.stride = 2, .padding = 1, .groups = 3}},
      {"no images", {0, 2, 3, 3}, {2, 2, 2, 2}, {}},
  };
  for (const Conv& c : convs) {
    cases.push_back({format("conv2d {}", c.name), {{c.x}, {c.weight}, {{c.weight[0]}}}, [o = c.options](Inputs x) {
                       return conv2d(x[0], x[1], x[2], o);
                     }});
  }
  cases.push_back({"conv1d", {{{2, 4, 7}}, {{6, 2, 3}}, {{6}}}, [](Inputs x) {
                     return conv1d(x[0], x[1], x[2], {.stride = 2, .padding = 1, .groups = 2});
                   }});
  cases.push_back(
      {"conv2d without bias", {{{1, 2, 3, 3}}, {{2, 2, 2, 2}}}, [](Inputs x) { return conv2d(x[0], x[1]); }});
  cases.push_back({"conv2d relu", {{{2, 2, 4, 3}}, {{3, 2, 2, 2}}, {{3}}}, [](Inputs x) {
                     return conv2d(x[0], x[1], x[2], {.activation = Activation::relu});
                   }});

  struct Pool {
    const char* name;
    Shape x;
    Pair window;
    PoolOptions options;
  };
  const Pool pools[] = {
      {"2x2", {2, 2, 4, 6}, 2, {}},
      {"uneven", {1, 2, 5, 7}, {2, 3}, {}},
      {"overlapping", {1, 2, 5, 5}, 3, {.stride = Pair(1, 2), .padding = 1}},
      {"padding", {1, 1, 4, 5}, {2, 4}, {.stride = Pair(2), .padding = {1, 2}}},
      {"no images", {0, 2, 4, 4}, 2, {}},
  };
  for (const Pool& p : pools) {
    cases.push_back({format("max_pool2d {}", p.name),
                     {{p.x}},
                     [p](Inputs x) { return max_pool2d(x[0], p.window, p.options); },
                     Second::constant});
    for (const bool include : {true, false}) {
      cases.push_back({format("avg_pool2d {}{}", p.name, include ? "" : " without padding"),
                       {{p.x}},
                       [=](Inputs x) { return avg_pool2d(x[0], p.window, p.options, include); },
                       Second::constant});
    }
  }
}

inline void add_loss_cases(std::vector<GradientCase>& cases) {
  const auto add = [&](std::string name, std::vector<GradientInput> inputs, Function f,
                       Second second = Second::checked) {
    cases.push_back({std::move(name), std::move(inputs), std::move(f), second});
  };
  for (const int dim : {0, 1, -1}) {
    add(format("softmax {}", dim), {{{2, 3, 4}}}, [dim](Inputs x) { return softmax(x[0], dim); });
    add(format("log_softmax {}", dim), {{{2, 3, 4}}}, [dim](Inputs x) { return log_softmax(x[0], dim); });
  }
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 1}, Shape{2, 0}}) {
    add(format("softmax {}", shape), {{shape}}, [](Inputs x) { return softmax(x[0], -1); });
    add(format("log_softmax {}", shape), {{shape}}, [](Inputs x) { return log_softmax(x[0], -1); });
  }

  const Tensor classes = indices({2, 0, 1, 2, 3}, {5});
  const Tensor rows = indices({2, 0, 1, 3, 3, 0}, {2, 3});
  const Tensor shares = constant(softmax(uniform({5, 4}), 1));
  for (const auto& [name, reduction] :
       {std::pair{"mean", LossReduction::mean}, {"sum", LossReduction::sum}, {"none", LossReduction::none}}) {
    for (const double smoothing : {0.0, 0.3}) {
      const CrossEntropyOptions options{.label_smoothing = smoothing, .reduction = reduction};
      const std::string what = format("{} smoothing {}", name, smoothing);
      add(
          "cross_entropy classes " + what, {{{5, 4}}}, [=](Inputs x) { return cross_entropy(x[0], classes, options); },
          Second::throws);
      add(
          "cross_entropy ignoring " + what, {{{5, 4}}},
          [=, o = options](Inputs x) mutable {
            o.ignore_index = 2;
            return cross_entropy(x[0], classes, o);
          },
          Second::throws);
      add(
          "cross_entropy probabilities " + what, {{{5, 4}}},
          [=](Inputs x) { return cross_entropy(x[0], shares, options); }, Second::throws);
      add(
          "cross_entropy [n, c, h] " + what, {{{2, 4, 3}}},
          [=](Inputs x) { return cross_entropy(x[0], rows, options); }, Second::throws);
    }
    const LossReduction r = reduction;
    add(
        format("cross_entropy one class {}", name), {{{3, 1}}},
        [=](Inputs x) {
          return cross_entropy(x[0], indices({0, 0, 0}, {3}), {.reduction = r});
        },
        Second::throws);
    add(format("nll_loss {}", name), {{{5, 4}}}, [=](Inputs x) { return nll_loss(x[0], classes, r); });
    for (const Shape& shape : {Shape{3, 4}, Shape{1}, Shape{}}) {
      const std::vector<GradientInput> pair{{shape}, {shape}};
      add(format("mse_loss {} {}", name, shape), pair, [=](Inputs x) { return mse_loss(x[0], x[1], r); });
      add(format("l1_loss {} {}", name, shape), pair, [=](Inputs x) { return l1_loss(x[0], x[1], r); });
      add(format("binary_cross_entropy_with_logits {} {}", name, shape), {{shape, -5, 5}, {shape, 0.1, 0.9}},
          [=](Inputs x) { return binary_cross_entropy_with_logits(x[0], x[1], r); });
    }
  }
  add(
      "cross_entropy no rows", {{{0, 4}}},
      [](Inputs x) { return cross_entropy(x[0], indices({}, {0}), {.reduction = LossReduction::sum}); },
      Second::throws);
  add("mse_loss broadcast", {{{3, 4}}, {{4}}}, [](Inputs x) { return mse_loss(x[0], x[1]); });
}

inline void add_norm_cases(std::vector<GradientCase>& cases) {
  const auto add = [&](const char* name, std::vector<GradientInput> inputs, Function f) {
    cases.push_back({name, std::move(inputs), std::move(f), Second::throws});
  };
  add("layer_norm", {{{3, 5}}, {{5}}, {{5}}}, [](Inputs x) { return layer_norm(x[0], x[1], x[2]); });
  add("layer_norm plain", {{{2, 3, 5}}}, [](Inputs x) { return layer_norm(x[0]); });
  add("layer_norm weight only", {{{3, 5}}, {{5}}}, [](Inputs x) { return layer_norm(x[0], x[1]); });
  add("layer_norm two dimensions", {{{2, 3, 4}}, {{3, 4}}, {{3, 4}}},
      [](Inputs x) { return layer_norm(x[0], x[1], x[2], 1e-3); });
  add("layer_norm one row", {{{5}}, {{5}}, {{5}}}, [](Inputs x) { return layer_norm(x[0], x[1], x[2]); });
  add("layer_norm no rows", {{{0, 5}}, {{5}}, {{5}}}, [](Inputs x) { return layer_norm(x[0], x[1], x[2]); });
  add("rms_norm", {{{3, 5}}, {{5}}}, [](Inputs x) { return rms_norm(x[0], x[1]); });
  add("rms_norm plain", {{{2, 3, 5}}}, [](Inputs x) { return rms_norm(x[0], {}, 1e-3); });
  add("rms_norm no rows", {{{0, 5}}, {{5}}}, [](Inputs x) { return rms_norm(x[0], x[1]); });
  add("add_layer_norm", {{{3, 5}}, {{3, 5}}, {{5}}, {{5}}}, [](Inputs x) {
    const NormOfSum y = add_layer_norm(x[0], x[1], x[2], x[3]);
    return y.sum * y.norm;
  });
  add("add_layer_norm broadcast", {{{2, 3, 5}}, {{5}}}, [](Inputs x) {
    const NormOfSum y = add_layer_norm(x[0], x[1]);
    return y.sum * y.norm;
  });
  add("add_rms_norm", {{{3, 5}}, {{3, 5}}, {{5}}}, [](Inputs x) {
    const NormOfSum y = add_rms_norm(x[0], x[1], x[2]);
    return y.sum * y.norm;
  });
  const Tensor mean = constant(uniform({3}));
  const Tensor variance = constant(uniform({3}, 0.5, 2));
  add("batch_norm training", {{{4, 3, 2, 2}}, {{3}}, {{3}}},
      [](Inputs x) { return batch_norm(x[0], {}, {}, x[1], x[2]); });
  add("batch_norm [n, c]", {{{5, 3}}, {{3}}, {{3}}},
      [](Inputs x) { return batch_norm(x[0], {}, {}, x[1], x[2], {.eps = 1e-3}); });
  add("batch_norm plain", {{{4, 3, 2}}}, [](Inputs x) { return batch_norm(x[0], {}, {}); });
  add("batch_norm evaluation", {{{2, 3, 2}}, {{3}}, {{3}}},
      [=](Inputs x) { return batch_norm(x[0], mean, variance, x[1], x[2], {.training = false}); });
  add("batch_norm no images", {{{0, 3, 2}}, {{3}}, {{3}}},
      [=](Inputs x) { return batch_norm(x[0], mean, variance, x[1], x[2], {.training = false}); });
}

inline void add_attention_cases(std::vector<GradientCase>& cases) {
  const auto add = [&](const char* name, std::vector<GradientInput> inputs, AttentionOptions options) {
    cases.push_back({format("scaled_dot_product_attention {}", name), std::move(inputs),
                     [=](Inputs x) {
                       AttentionOptions given = options;
                       if (given.mask.defined() && given.mask.dtype() != DType::boolean)
                         given.mask = constant(given.mask);
                       Generator generator(3);
                       return x.size() == 1 ? scaled_dot_product_attention(x[0], given, generator)
                                            : scaled_dot_product_attention(x[0], x[1], x[2], given, generator);
                     },
                     Second::throws});
  };
  const Tensor blind = flags({1, 0, 0, 0, 1, 1}, {3, 1, 2});  // one head of one query sees nothing
  add("plain", {{{2, 3, 4, 5}}, {{2, 3, 6, 5}}, {{2, 3, 6, 2}}}, {});
  add("causal", {{{1, 2, 5, 3}}, {{1, 2, 4, 3}}, {{1, 2, 4, 3}}}, {.is_causal = true, .scale = 0.3});
  add("one head", {{{4, 3}}, {{5, 3}}, {{5, 2}}}, {});
  add("three dimensions, masked", {{{3, 4, 3}}, {{3, 2, 3}}, {{3, 2, 3}}}, {.mask = blind});
  add("five dimensions, mask added", {{{2, 1, 2, 3, 4}}, {{2, 1, 2, 5, 4}}, {{2, 1, 2, 5, 4}}},
      {.mask = uniform({2, 1, 1, 3, 5})});
  add("grouped", {{{1, 4, 3, 2}}, {{1, 2, 5, 2}}, {{1, 2, 5, 2}}}, {.is_causal = true, .enable_gqa = true});
  add("dropped", {{{2, 2, 3, 4}}, {{2, 2, 7, 4}}, {{2, 2, 7, 4}}}, {.dropout_p = 0.4});
  add("packed", {{{2, 5, 3, 2, 4}}}, {.is_causal = true});
  add("no queries", {{{1, 1, 0, 2}}, {{1, 1, 3, 2}}, {{1, 1, 3, 2}}}, {});
  add("no keys", {{{1, 1, 3, 2}}, {{1, 1, 0, 2}}, {{1, 1, 0, 2}}}, {});
}

}  // namespace anneal::testing
