#include "anneal/core/gradcheck.h"

#include <cmath>
#include <limits>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

using Function = std::function<Tensor(std::span<const Tensor>)>;

class Checker {
 public:
  Checker(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options)
      : f_(f), given_(inputs.begin(), inputs.end()), options_(options) {}

  GradcheckReport run() {
    for (const Tensor& x : given_)
      check(!x.requires_grad() || x.dtype() == DType::f64, "gradcheck: expected f64 inputs, got {}",
            name_of(x.dtype()));
    const std::vector<Tensor> inputs = fresh(false);
    const Tensor y = f_(inputs);
    check(y.requires_grad(), "gradcheck: the result does not require gradients");
    // A fixed, uneven weighting makes one number of the result.
    weights_ = cosine_pattern(y.shape());
    poison(inputs);
    backward(y, weights_, {.retain_graph = true});
    std::vector<std::vector<double>> analytic = gradients(inputs);
    compare_with_differences(inputs, analytic);
    backward(y, weights_, {});
    for (auto& gradient : analytic)
      for (double& g : gradient) g *= 2;
    compare(gradients(inputs), analytic, "after a second backward");
    check_strided(analytic);
    if (options_.twice && report_.ok) check_twice();
    return report_;
  }

 private:
  static Tensor cosine_pattern(const Shape& shape) {
    std::vector<double> values(static_cast<std::size_t>(shape.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.6 + std::cos(1.7 * static_cast<double>(i));
    return tensor(values, shape, {.dtype = DType::f64});
  }

  // Leaves with the given values; if `strided`, as every second element of a larger tensor, with dimensions reversed.
  std::vector<Tensor> fresh(bool strided) const {
    std::vector<Tensor> inputs;
    const NoGrad no_grad;
    for (const Tensor& x : given_) {
      Tensor copy = x.detach().clone();
      if (strided && x.rank() > 0) {
        int reversed[Shape::max_rank];
        for (int d = 0; d < x.rank(); ++d) reversed[d] = x.rank() - 1 - d;
        const std::span<const int> order(reversed, static_cast<std::size_t>(x.rank()));
        Shape wide = x.detach().permute(order).shape();
        wide[-1] *= 2;
        const Tensor view = full(wide, 0, {.dtype = x.dtype()}).slice(-1, 0, wide[-1], 2).permute(order);
        copy = view.copy_(copy);
      }
      if (x.requires_grad()) copy.set_requires_grad();
      inputs.push_back(copy);
    }
    return inputs;
  }

  static void poison(std::span<const Tensor> inputs) {
    for (const Tensor& x : inputs)
      if (Leaf* leaf = leaf_of(x))
        leaf->slot = full(x.shape(), std::numeric_limits<double>::quiet_NaN(), {.dtype = DType::f64});
  }

  static std::vector<std::vector<double>> gradients(std::span<const Tensor> inputs) {
    std::vector<std::vector<double>> all;
    for (const Tensor& x : inputs) {
      const Tensor g = x.requires_grad() ? x.grad() : Tensor();
      all.push_back(g.defined()
                        ? g.to_vector()
                        : std::vector<double>(x.requires_grad() ? static_cast<std::size_t>(x.numel()) : 0, 0.0));
    }
    return all;
  }

  void compare_with_differences(std::span<const Tensor> inputs, const std::vector<std::vector<double>>& analytic) {
    const NoGrad no_grad;
    const auto value = [&] { return sum(f_(inputs) * weights_).item(); };
    std::vector<std::vector<double>> numeric = analytic;
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      if (!inputs[k].requires_grad()) continue;
      const auto x = inputs[k].span<double>();
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double at = x[i];
        x[i] = at + options_.step;
        const double above = value();
        x[i] = at - options_.step;
        const double below = value();
        x[i] = at;
        numeric[k][i] = (above - below) / (2 * options_.step);
      }
    }
    compare(analytic, numeric, "against finite differences");
  }

  void check_strided(const std::vector<std::vector<double>>& doubled) {
    const std::vector<Tensor> inputs = fresh(true);
    backward(f_(inputs), weights_, {.retain_graph = false});
    std::vector<std::vector<double>> twice = gradients(inputs);
    for (auto& gradient : twice)
      for (double& g : gradient) g *= 2;
    compare(twice, doubled, "with strided inputs");
  }

  void check_twice() {
    const auto first = [this](std::span<const Tensor> inputs) {
      std::vector<Tensor> wanted;
      for (const Tensor& x : inputs)
        if (x.requires_grad()) wanted.push_back(x);
      Tensor total = scalar(0, {.dtype = DType::f64});
      for (const Tensor& g : grad(f_(inputs), wanted, {.create_graph = true}, weights_))
        if (g.defined()) total = total + sum(g * cosine_pattern(g.shape()));
      return total;
    };
    const Tensor probe = first(fresh(false));
    if (!probe.requires_grad()) return;  // linear: the gradient is a constant
    // Differences of first gradients need recording switched on inside.
    const Function recorded = [&](std::span<const Tensor> inputs) {
      const GradMode on(true);
      return first(inputs);
    };
    GradcheckOptions options = options_;
    options.twice = false;
    GradcheckReport second = gradcheck(recorded, given_, options);
    if (!second.ok) second.where = "second derivative, " + second.where;
    report_ = second;
  }

  void compare(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& expected,
               const char* how) {
    for (std::size_t k = 0; k < got.size(); ++k) {
      for (std::size_t i = 0; i < got[k].size(); ++i) {
        const double difference = std::abs(got[k][i] - expected[k][i]);
        report_.worst = std::max(report_.worst, difference);
        if (difference <= options_.atol + options_.rtol * std::abs(expected[k][i])) continue;
        if (report_.ok)
          report_.where =
              format("input {}, element {} {}: gradient {}, expected {}", k, i, how, got[k][i], expected[k][i]);
        report_.ok = false;
      }
    }
  }

  const Function& f_;
  std::vector<Tensor> given_;
  GradcheckOptions options_;
  Tensor weights_;
  GradcheckReport report_;
};

}  // namespace

GradcheckReport gradcheck(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options) {
  return Checker(f, inputs, options).run();
}
GradcheckReport gradcheck(const Function& f, std::initializer_list<Tensor> inputs, GradcheckOptions options) {
  return gradcheck(f, std::span(inputs.begin(), inputs.size()), options);
}

}  // namespace v0
}  // namespace anneal
