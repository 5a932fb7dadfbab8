// All at once: tied and frozen weights, two parameter groups, gradients accumulated over micro-batches, a penalty on a
// gradient, parameters that sit out some steps, unfreezing. Equal to the same maths in plain loops.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/adam.h"

using namespace anneal;

namespace {

constexpr int inputs = 4, hidden = 3, batch = 5, micro_batches = 3, steps = 9, unfrozen_at = 4;
constexpr double penalty = 0.7;
const optim::AdamWOptions decayed{.lr = 0.02, .weight_decay = 0.1};
const optim::AdamWOptions others{.lr = 0.05, .weight_decay = 0};

bool with_penalty(int step) { return step % 3 != 1; }

std::vector<double> sample(int step, int micro) {
  std::vector<double> x;
  for (int i = 0; i < batch * inputs; ++i) x.push_back(std::sin(1.3 * i + 0.7 * step + 2.1 * micro));
  return x;
}

// An autoencoder whose decoder is the encoder's weight, and a critic u on the hidden units:
//   h = tanh(W x + b), out = W^T h + scale * shift, loss = |out - x|^2 / 2 + penalty * |d (u h) / dx|^2
struct Autoencoder : nn::Module {
  nn::Linear encode{{this, "encode"}, inputs, hidden};
  nn::Parameter decode{{this, "decode"}, zeros({hidden, inputs})};
  nn::Parameter shift{{this, "shift"}, full({inputs}, 0.3)};
  nn::Parameter scale{{this, "scale"}, full({inputs}, 0.9)};
  nn::Parameter critic{{this, "critic"}, full({hidden}, 0.5)};

  Autoencoder() {
    decode = encode.weight;
    scale.set_requires_grad(false);
    encode.bias.set_requires_grad(false);
  }
  Tensor loss(const Tensor& x, bool penalised) const {
    const Tensor h = tanh(encode(x));
    const Tensor out = matmul(h, decode) + scale * shift;
    const Tensor error = sum(square(out - x)) * (0.5 / batch);
    if (!penalised) return error;
    const Tensor slope = grad(sum(h * critic), {x}, {.create_graph = true})[0];
    return error + sum(square(slope)) * (penalty / batch);
  }
};

// One parameter with AdamW's state, by hand.
struct Plain {
  std::vector<double> value, gradient, m, v;
  bool touched = false;
  int step = 0;

  explicit Plain(const Tensor& t) : value(t.to_vector()), gradient(value.size()), m(value.size()), v(value.size()) {}

  void update(const optim::AdamWOptions& o) {
    if (!touched) return;
    ++step;
    for (std::size_t i = 0; i < value.size(); ++i) {
      value[i] -= o.lr * o.weight_decay * value[i];
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * gradient[i];
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * gradient[i] * gradient[i];
      const double mean = m[i] / (1 - std::pow(o.beta1, step));
      const double square = v[i] / (1 - std::pow(o.beta2, step));
      value[i] -= o.lr * mean / (std::sqrt(square) + o.eps);
    }
    gradient.assign(gradient.size(), 0);
    touched = false;
  }
};

struct PlainModel {
  Plain w, b, shift, scale, critic;

  double loss(const std::vector<double>& batch_x, bool penalised, double factor) {
    double total = 0;
    const double each = factor / batch;
    for (int n = 0; n < batch; ++n) {
      const double* x = batch_x.data() + n * inputs;
      const auto at = [](int k, int j) { return static_cast<std::size_t>(k * inputs + j); };
      const auto index = [](int i) { return static_cast<std::size_t>(i); };
      double h[hidden], dh[hidden] = {};
      for (int k = 0; k < hidden; ++k) {
        double z = b.value[index(k)];
        for (int j = 0; j < inputs; ++j) z += w.value[at(k, j)] * x[j];
        h[k] = std::tanh(z);
      }
      for (int j = 0; j < inputs; ++j) {
        double error = scale.value[index(j)] * shift.value[index(j)] - x[j];
        for (int k = 0; k < hidden; ++k) error += w.value[at(k, j)] * h[k];
        total += each * error * error / 2;
        shift.gradient[index(j)] += each * error * scale.value[index(j)];
        for (int k = 0; k < hidden; ++k) {
          w.gradient[at(k, j)] += each * error * h[k];
          dh[k] += each * error * w.value[at(k, j)];
        }
      }
      for (int j = 0; penalised && j < inputs; ++j) {
        // slope_j = sum_k W_kj u_k (1 - h_k^2)
        double slope = 0;
        for (int k = 0; k < hidden; ++k) slope += w.value[at(k, j)] * critic.value[index(k)] * (1 - h[k] * h[k]);
        total += each * penalty * slope * slope;
        const double dslope = each * penalty * 2 * slope;
        for (int k = 0; k < hidden; ++k) {
          w.gradient[at(k, j)] += dslope * critic.value[index(k)] * (1 - h[k] * h[k]);
          critic.gradient[index(k)] += dslope * w.value[at(k, j)] * (1 - h[k] * h[k]);
          dh[k] += dslope * w.value[at(k, j)] * critic.value[index(k)] * -2 * h[k];
        }
      }
      for (int k = 0; k < hidden; ++k) {
        const double dz = dh[k] * (1 - h[k] * h[k]);
        b.gradient[index(k)] += dz;
        for (int j = 0; j < inputs; ++j) w.gradient[at(k, j)] += dz * x[j];
      }
    }
    w.touched = shift.touched = true;
    critic.touched = critic.touched || penalised;
    return total;
  }
};

TEST(Adversarial, EqualsTheSameMathsByHand) {
  manual_seed(5);
  Autoencoder model;
  model.to(DType::f64);
  optim::AdamW adam({{{{"w", model.encode.weight}, {"b", model.encode.bias}}, decayed},
                     {{{"shift", model.shift}, {"scale", model.scale}, {"critic", model.critic}}, others}});
  PlainModel plain{Plain(model.encode.weight), Plain(model.encode.bias), Plain(model.shift), Plain(model.scale),
                   Plain(model.critic)};
  const std::vector<double> first_weight = plain.w.value;

  const auto expect_equal = [](const Tensor& got, const Plain& want, const char* name) {
    const std::vector<double> values = got.to_vector();
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], want.value[i], 1e-10) << name << " " << i;
  };
  for (int step = 0; step < steps; ++step) {
    SCOPED_TRACE(step);
    if (step == unfrozen_at) {
      model.encode.bias.set_requires_grad();
      adam.rebuild();
    }
    double loss = 0;
    double plain_loss = 0;
    for (int micro = 0; micro < micro_batches; ++micro) {
      const std::vector<double> values = sample(step, micro);
      const Tensor x = tensor(values, {batch, inputs}, {.dtype = DType::f64, .requires_grad = true});
      const Tensor part = model.loss(x, with_penalty(step)) * (1.0 / micro_batches);
      part.backward();
      loss += part.item();
      plain_loss += plain.loss(values, with_penalty(step), 1.0 / micro_batches);
    }
    EXPECT_NEAR(loss, plain_loss, 1e-10);
    EXPECT_EQ(model.critic.grad().defined(), with_penalty(step));
    adam.step();
    adam.zero_grad();
    plain.b.touched = step >= unfrozen_at;
    if (!plain.b.touched) plain.b.gradient.assign(hidden, 0);
    plain.w.update(decayed);
    plain.b.update(decayed);
    plain.shift.update(others);
    plain.critic.update(others);
    expect_equal(model.encode.weight, plain.w, "weight");
    expect_equal(model.decode, plain.w, "tied weight");
    expect_equal(model.encode.bias, plain.b, "bias");
    expect_equal(model.shift, plain.shift, "shift");
    expect_equal(model.scale, plain.scale, "scale");
    expect_equal(model.critic, plain.critic, "critic");
  }
  EXPECT_GT(std::abs(plain.w.value[0] - first_weight[0]), 0.01) << "nothing was trained";
}

}  // namespace
