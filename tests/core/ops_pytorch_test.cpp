// The ops whose semantics are intricate, against PyTorch's values and gradients (fixtures/make_ops.py).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/tests/fixture.h"

using namespace anneal;
using anneal::testing::fixture;

namespace {

using Json = nlohmann::json;
using Doubles = std::vector<double>;
using Tensors = std::vector<Tensor>;

double number(const Json& json) {
  if (json == "nan") return NAN;
  if (json == "inf") return INFINITY;
  if (json == "-inf") return -INFINITY;
  return json;
}
Doubles numbers(const Json& json) {
  Doubles values;
  for (const Json& value : json) values.push_back(number(value));
  return values;
}
Shape shape_of(const Json& json) { return Shape(std::span<const std::int64_t>(json.get<std::vector<std::int64_t>>())); }

Tensor input(const Json& json) {
  const Shape shape = shape_of(json["shape"]);
  Doubles values;
  if (json.contains("phase")) {
    for (std::int64_t k = 0; k < shape.numel(); ++k) {
      const auto i = static_cast<double>(k);
      values.push_back(std::sin(0.9 * i + json["phase"].get<double>()) + 0.4 * std::cos(2.3 * i));
    }
  } else {
    values = numbers(json["values"]);
  }
  if (json.contains("integers")) return tensor(values, shape, {.dtype = DType::i64});
  return tensor(values, shape, {.dtype = DType::f64, .requires_grad = !json.contains("constant")});
}

Pair pair_of(const Json& options, const char* name, std::int64_t otherwise) {
  if (!options.contains(name)) return otherwise;
  const Json& json = options[name];
  return json.is_array() ? Pair(json[0], json[1]) : Pair(json.get<std::int64_t>());
}
PoolOptions pool_options(const Json& o) {
  PoolOptions options{.padding = pair_of(o, "padding", 0)};
  if (o.contains("stride")) options.stride = pair_of(o, "stride", 1);
  return options;
}
LossReduction reduction_of(const Json& o) {
  const std::string name = o.value("reduction", "mean");
  return name == "none" ? LossReduction::none : name == "sum" ? LossReduction::sum : LossReduction::mean;
}

using Op = std::function<Tensor(const Tensors&, const Json&)>;
const std::map<std::string, Op>& ops() {
  const auto of_one = [](Tensor (*f)(const Tensor&)) { return [f](const Tensors& x, const Json&) { return f(x[0]); }; };
  const auto of_two = [](Tensor (*f)(const Tensor&, const Tensor&)) {
    return [f](const Tensors& x, const Json&) { return f(x[0], x[1]); };
  };
  const auto over_dims = [](Tensor (*f)(const Tensor&, std::span<const int>, bool)) {
    return [f](const Tensors& x, const Json& o) { return f(x[0], o["dims"].get<std::vector<int>>(), false); };
  };
  const auto loss = [](Tensor (*f)(const Tensor&, const Tensor&, LossReduction)) {
    return [f](const Tensors& x, const Json& o) { return f(x[0], x[1], reduction_of(o)); };
  };
  static const std::map<std::string, Op> all{
      {"cross_entropy",
       [](const Tensors& x, const Json& o) {
         return cross_entropy(x[0], x[1],
                              {.ignore_index = o.value("ignore_index", std::int64_t{-100}),
                               .label_smoothing = o.value("label_smoothing", 0.0),
                               .reduction = reduction_of(o)});
       }},
      {"conv2d",
       [](const Tensors& x, const Json& o) {
         return conv2d(x[0], x[1], x[2],
                       {.stride = pair_of(o, "stride", 1),
                        .padding = pair_of(o, "padding", 0),
                        .dilation = pair_of(o, "dilation", 1),
                        .groups = o.value("groups", std::int64_t{1})});
       }},
      {"max_pool2d",
       [](const Tensors& x, const Json& o) { return max_pool2d(x[0], pair_of(o, "kernel_size", 1), pool_options(o)); }},
      {"avg_pool2d",
       [](const Tensors& x, const Json& o) {
         return avg_pool2d(x[0], pair_of(o, "kernel_size", 1), pool_options(o), o.value("count_include_pad", true));
       }},
      {"batch_norm",
       [](const Tensors& x, const Json& o) {
         return batch_norm(x[0], x[1], x[2], x[3], x[4],
                           {.training = o["training"], .momentum = o["momentum"], .eps = o["eps"]});
       }},
      {"layer_norm", [](const Tensors& x, const Json& o) { return layer_norm(x[0], x[1], x[2], o["eps"]); }},
      {"rms_norm", [](const Tensors& x, const Json& o) { return rms_norm(x[0], x[1], o["eps"]); }},
      {"attention",
       [](const Tensors& x, const Json& o) {
         AttentionOptions options{.is_causal = o.value("is_causal", false), .enable_gqa = o.value("enable_gqa", false)};
         if (o.contains("scale")) options.scale = o["scale"].get<double>();
         if (x.size() > 3) options.mask = o.contains("masked") ? ne(x[3], zeros({}, {.dtype = DType::f64})) : x[3];
         return scaled_dot_product_attention(x[0], x[1], x[2], options);
       }},
      {"gelu", of_one(gelu)},
      {"gelu_tanh", of_one(gelu_tanh)},
      {"softplus", of_one(softplus)},
      {"silu", of_one(silu)},
      {"logsigmoid", of_one(log_sigmoid)},
      {"relu", of_one(relu)},
      {"abs", of_one(abs)},
      {"sign", of_one(sign)},
      {"tanh", of_one(tanh)},
      {"sigmoid", of_one(sigmoid)},
      {"erf", of_one(erf)},
      {"round", of_one(round)},
      {"maximum", of_two(maximum)},
      {"minimum", of_two(minimum)},
      {"pow", of_two(pow)},
      {"matmul", of_two(matmul)},
      {"clamp", [](const Tensors& x, const Json& o) { return clamp(x[0], o["low"], o["high"]); }},
      {"amax", over_dims(amax)},
      {"amin", over_dims(amin)},
      {"logsumexp", over_dims(logsumexp)},
      {"var", [](const Tensors& x,
                 const Json& o) { return var(x[0], o["dims"].get<std::vector<int>>(), o["correction"].get<int>()); }},
      {"softmax", [](const Tensors& x, const Json& o) { return softmax(x[0], o["dim"]); }},
      {"log_softmax", [](const Tensors& x, const Json& o) { return log_softmax(x[0], o["dim"]); }},
      {"prod", [](const Tensors& x, const Json& o) { return prod(x[0], o["dim"]); }},
      {"gather", [](const Tensors& x, const Json& o) { return gather(x[0], o["dim"], x[1]); }},
      {"scatter_add", [](const Tensors& x, const Json& o) { return scatter_add(x[0], o["dim"], x[1], x[2]); }},
      {"embedding",
       [](const Tensors& x, const Json& o) { return embedding(x[0], x[1], o.value("padding_idx", std::int64_t{-1})); }},
      {"mse_loss", loss(mse_loss)},
      {"l1_loss", loss(l1_loss)},
      {"bce", loss(binary_cross_entropy_with_logits)},
      {"nll_loss", loss(nll_loss)},
  };
  return all;
}

void expect_values(const Tensor& got, const Doubles& want, const std::string& what) {
  ASSERT_TRUE(got.defined()) << what;
  const Doubles values = got.to_vector();
  ASSERT_EQ(values.size(), want.size()) << what;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i])) EXPECT_TRUE(std::isnan(values[i])) << what << " " << i << ": " << values[i];
    else if (std::isinf(want[i])) EXPECT_EQ(values[i], want[i]) << what << " " << i;
    else EXPECT_NEAR(values[i], want[i], 1e-11 * (1 + std::abs(want[i]))) << what << " " << i;
  }
}

TEST(OpsPyTorch, ValuesAndGradients) {
  const Json all = fixture("ops.json");
  ASSERT_GT(all["cases"].size(), 80u);
  std::map<std::string, int> used;
  for (const Json& c : all["cases"]) {
    const std::string op = c["op"];
    SCOPED_TRACE(op + " " + c["options"].dump() + " " + c["inputs"].dump());
    Tensors inputs;
    for (const Json& json : c["inputs"]) inputs.push_back(input(json));
    ASSERT_TRUE(ops().contains(op));
    ++used[op];
    const Tensor y = ops().at(op)(inputs, c["options"]);
    EXPECT_EQ(y.shape(), shape_of(c["results"][0]["shape"]));
    expect_values(y, numbers(c["results"][0]["values"]), "result");
    for (std::size_t i = 1; i < c["results"].size(); ++i)
      expect_values(inputs[i], numbers(c["results"][i]["values"]), "running statistic");
    Doubles seed;
    for (std::int64_t i = 0; i < y.numel(); ++i) seed.push_back(0.6 + std::cos(1.7 * static_cast<double>(i)));
    y.backward(tensor(seed, y.shape(), {.dtype = DType::f64}));
    std::size_t k = 0;
    for (const Tensor& x : inputs) {
      if (!x.requires_grad()) continue;
      expect_values(x.grad(), numbers(c["gradients"].at(k)), "gradient " + std::to_string(k));
      ++k;
    }
    EXPECT_EQ(k, c["gradients"].size());
  }
  EXPECT_EQ(used.size(), ops().size());
}

}  // namespace
