// All at once: tied and frozen weights, two parameter groups, mixed precision with a scale that overflows, a window of
// three batches, a penalty on a gradient, averaged weights swapped in for validation (within windows too), unfreezing
// and a rebuild. Equal to the same maths in plain loops of doubles, rounded to 16 bits where the autocast table says
// so.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/kernels/dtype.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

constexpr std::size_t inputs = 4, hidden = 3, batch_size = 5, batches = 7, epochs = 4;
constexpr std::size_t window = 3, check_every = 2, unfrozen_at = 2;  // batches; epochs
constexpr double penalty = 0.7, decay = 0.75;
const optim::AdamWOptions decayed{.lr = 0.02, .weight_decay = 0.1};
const optim::AdamWOptions others{.lr = 0.05, .weight_decay = 0};
const optim::GradScalerOptions scaling{.init_scale = 0x1p18, .growth_interval = 2};

// f32 is within 3e-7 of f64 here: with these weights nothing that is rounded to 16 bits lies within 1e-6 of the middle
// between two neighbours, so both round alike, in whatever order sums are taken. One rounding missed is 1e-5 or more.
constexpr double tolerance = 1e-5;

bool with_penalty(std::size_t batch) { return batch < 2 || batch == 4; }

// ---- with the library ----

// An autoencoder whose decoder is the encoder's weight, and a critic u on the hidden units:
//   h = tanh(W x + b), out = h W + scale * shift, loss = |out - x|^2 / 2 + penalty * |d (u h) / dx|^2
struct Autoencoder : TrainingModule {
  nn::Linear encode{{this, "encode"}, inputs, hidden};
  nn::Parameter decode{{this, "decode"}, zeros({hidden, inputs})};
  nn::Parameter shift{{this, "shift"}, full({inputs}, 0.3)};
  nn::Parameter scale{{this, "scale"}, full({inputs}, 0.9)};
  nn::Parameter critic{{this, "critic"}, full({hidden}, 0.5)};
  std::vector<double> losses, val_losses;

  Autoencoder() {
    decode = encode.weight;
    scale.set_requires_grad(false);
    encode.bias.set_requires_grad(false);
  }
  Tensor error(const Tensor& x, const Tensor& h) const {
    return sum(square(matmul(h, decode) + scale * shift - x)) * (0.5 / batch_size);
  }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    Tensor x = batch["x"];
    x.set_requires_grad();
    const Tensor h = tanh(encode(x));
    Tensor loss = error(x, h);
    if (with_penalty(static_cast<std::size_t>(step.batch_idx()))) {
      const Tensor slope = grad(sum(h * critic), {x}, {.create_graph = true})[0];
      loss = loss + sum(square(slope)) * (penalty / batch_size);
    }
    losses.push_back(loss.item());
    return loss;
  }
  void validation_step(const Batch& batch, StepContext&) override {
    val_losses.push_back(error(batch["x"], tanh(encode(batch["x"]))).item());
  }
  void on_train_epoch_start() override {
    if (trainer().current_epoch() != unfrozen_at) return;
    encode.bias.set_requires_grad();
    trainer().optimizer()->rebuild();
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW({{{{"w", encode.weight}, {"b", encode.bias}}, decayed},
                          {{{"shift", shift}, {"scale", scale}, {"critic", critic}}, others}})};
  }
};

// Averages of the weights over optimizer steps, which take the weights' place during validation.
struct Averages : Callback {
  std::vector<Tensor> averages = {}, kept = {};
  std::int64_t step = 0;

  void on_train_start(Trainer&, TrainingModule& module) override { averages = copies(module); }
  void on_train_batch_end(Trainer& t, TrainingModule& module, const Tensor&, const Batch&, StepContext&) override {
    if (t.global_step() == step) return;
    step = t.global_step();
    const std::vector<Tensor> now = copies(module);
    for (std::size_t i = 0; i < now.size(); ++i) averages[i].mul_(decay).add_(now[i], 1 - decay);
  }
  void on_validation_start(Trainer&, TrainingModule& module) override {
    kept = copies(module);
    write(module, averages);
  }
  void on_validation_end(Trainer&, TrainingModule& module) override { write(module, kept); }

  static std::vector<Tensor> copies(const TrainingModule& module) {
    std::vector<Tensor> values;
    for (const NamedTensor& p : module.parameters()) values.push_back(p.tensor.detach().clone());
    return values;
  }
  static void write(const TrainingModule& module, const std::vector<Tensor>& values) {
    const std::vector<NamedTensor> parameters = module.parameters();
    for (std::size_t i = 0; i < values.size(); ++i) parameters[i].tensor.copy_(values[i]);
  }
};

// ---- by hand ----

// One parameter with its average and AdamW's state.
struct Plain {
  std::vector<double> value, average, gradient, m, v;
  const optim::AdamWOptions options;
  bool touched = false;
  int step = 0;

  Plain(const Tensor& t, const optim::AdamWOptions& o)
      : value(t.to_vector()), average(value), gradient(value.size()), m(value.size()), v(value.size()), options(o) {}

  double operator()(std::size_t i) const { return value[i]; }
  double operator()(std::size_t row, std::size_t column) const { return value[row * inputs + column]; }
  bool finite() const {
    return std::ranges::all_of(gradient, [](double g) { return std::isfinite(g); });
  }
  void forget() {
    gradient.assign(gradient.size(), 0);
    touched = false;
  }
  // `factor` is what gradients are multiplied by.
  void update(double factor) {
    const optim::AdamWOptions& o = options;
    step += touched;
    for (std::size_t i = 0; i < value.size() && touched; ++i) {
      const double g = gradient[i] * factor;
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      const double mean = m[i] / (1 - std::pow(o.beta1, step)), square = v[i] / (1 - std::pow(o.beta2, step));
      value[i] -= o.lr * o.weight_decay * value[i] + o.lr * mean / (std::sqrt(square) + o.eps);
    }
    for (std::size_t i = 0; i < value.size(); ++i) average[i] += (1 - decay) * (value[i] - average[i]);
  }
};

// `Low` is the 16-bit type.
template <class Low>
struct PlainModel {
  Plain w, b, shift, scale, critic;
  double loss_scale;
  std::int64_t good_steps = 0, skipped = 0, steps = 0;
  std::array<Plain*, 5> all{&w, &b, &shift, &scale, &critic};

  explicit PlainModel(const Autoencoder& model)
      : w(model.encode.weight, decayed),
        b(model.encode.bias, decayed),
        shift(model.shift, others),
        scale(model.scale, others),
        critic(model.critic, others),
        loss_scale(scaled ? scaling.init_scale : 1) {}

  static constexpr bool scaled = std::is_same_v<Low, f16>;
  static double low(double x) { return to_float(store<Low>(static_cast<float>(x))); }

  using Hidden = std::array<double, hidden>;
  using Inputs = std::array<double, inputs>;

  // Forward of one sample: h and out - x.
  std::pair<Hidden, Inputs> forward(const double* x) const {
    Hidden h{};
    Inputs error{};
    for (std::size_t k = 0; k < hidden; ++k) {
      double z = low(b(k));
      for (std::size_t j = 0; j < inputs; ++j) z += low(w(k, j)) * low(x[j]);
      h[k] = low(std::tanh(low(z)));
    }
    for (std::size_t j = 0; j < inputs; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < hidden; ++k) product += h[k] * low(w(k, j));
      error[j] = low(product) + scale(j) * shift(j) - x[j];
    }
    return {h, error};
  }
  double validate(const std::vector<double>& batch) const {
    double loss = 0;
    for (std::size_t n = 0; n < batch_size; ++n)
      for (const double e : forward(&batch[n * inputs]).second) loss += e * e * 0.5 / batch_size;
    return loss;
  }

  // The loss; its gradients, times the loss scale, are added. Those of matrix products have 16 bits but for what
  // `encode` adds to W itself; sums over the batch are rounded once.
  double train(const std::vector<double>& batch, bool penalised) {
    const double each = 1.0 / batch_size;
    double loss = 0;
    std::vector<double> by_decoder(w.value.size()), by_slope(w.value.size());
    for (std::size_t n = 0; n < batch_size; ++n) {
      const double* x = &batch[n * inputs];
      const auto [h, error] = forward(x);
      Hidden dh{};
      for (std::size_t j = 0; j < inputs; ++j) {
        loss += each * error[j] * error[j] / 2;
        const double dout = loss_scale * each * error[j];
        shift.gradient[j] += dout * scale(j);
        for (std::size_t k = 0; k < hidden; ++k) {
          by_decoder[k * inputs + j] += h[k] * low(dout);
          dh[k] += low(dout) * low(w(k, j));
        }
      }
      for (double& d : dh) d = low(d);
      if (penalised) {
        // The first backward: slope_j = sum_k dz_k W_kj, dz_k = u_k (1 - h_k^2).
        Hidden dz{}, ddz{};
        for (std::size_t k = 0; k < hidden; ++k) dz[k] = low(low(critic(k)) * (1 - h[k] * h[k]));
        for (std::size_t j = 0; j < inputs; ++j) {
          double slope = 0;
          for (std::size_t k = 0; k < hidden; ++k) slope += dz[k] * low(w(k, j));
          slope = low(slope);
          loss += each * penalty * slope * slope;
          const double dslope = low(loss_scale * each * penalty * 2 * slope);
          for (std::size_t k = 0; k < hidden; ++k) {
            by_slope[k * inputs + j] += dz[k] * dslope;
            ddz[k] += dslope * low(w(k, j));
          }
        }
        for (std::size_t k = 0; k < hidden; ++k) {
          critic.gradient[k] += low(low(ddz[k]) * (1 - h[k] * h[k]));
          dh[k] = low(dh[k] + low(low(ddz[k]) * low(critic(k)) * -2 * h[k]));
        }
      }
      for (std::size_t k = 0; k < hidden; ++k) {
        const double dz = low(dh[k] * (1 - h[k] * h[k]));
        b.gradient[k] += dz;
        for (std::size_t j = 0; j < inputs; ++j) w.gradient[k * inputs + j] += dz * low(x[j]);
      }
    }
    for (std::size_t i = 0; i < w.value.size(); ++i) w.gradient[i] += low(by_decoder[i]) + low(by_slope[i]);
    w.touched = shift.touched = true;
    critic.touched = critic.touched || penalised;
    return loss;
  }

  void step(std::size_t accumulated, bool unfrozen) {
    b.touched = unfrozen;
    const bool finite = std::ranges::all_of(all, [](const Plain* p) { return !p->touched || p->finite(); });
    if (finite) {
      ++steps;
      for (Plain* p : all) p->update(1 / (loss_scale * static_cast<double>(accumulated)));
    } else {
      ++skipped;
    }
    for (Plain* p : all) p->forget();
    if (!scaled) return;
    good_steps = finite ? good_steps + 1 : 0;
    if (!finite) loss_scale *= scaling.backoff_factor;
    if (good_steps != scaling.growth_interval) return;
    loss_scale *= scaling.growth_factor;
    good_steps = 0;
  }

  void swap_averages() {
    for (Plain* p : all) std::swap(p->value, p->average);
  }
};

std::vector<double> samples(std::size_t n, double phase) {
  std::vector<double> x;
  for (std::size_t i = 0; i < n * inputs; ++i)
    x.push_back(static_cast<float>(std::sin(1.3 * static_cast<double>(i) + phase)));
  return x;
}
DataLoader loader_of(const std::vector<double>& x) {
  const auto n = static_cast<std::int64_t>(x.size() / inputs);
  return DataLoader(TensorDataset{{"x", tensor(x, {n, inputs})}}, {.batch_size = batch_size});
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], want[i], tolerance * std::max(1.0, std::abs(want[i]))) << what << ' ' << i;
}

template <class Low>
void expect_equal_by_hand(const std::string& precision) {
  manual_seed(906);
  Autoencoder model;
  PlainModel<Low> plain(model);
  const std::vector<double> first = plain.w.value, x = samples(batches * batch_size, 0), v = samples(batch_size, 1);

  TrainerOptions options = quiet({.precision = precision,
                                  .max_epochs = epochs,
                                  .val_check_interval = static_cast<std::int64_t>(check_every),
                                  .num_sanity_val_steps = 0,
                                  .accumulate_grad_batches = window,
                                  .callbacks = {Averages()}});
  if (PlainModel<Low>::scaled) options.grad_scaler = scaling;
  Trainer trainer(options);
  const FitResult result = trainer.fit(model, loader_of(x), loader_of(v));

  std::vector<double> losses, val_losses;
  for (std::size_t epoch = 0; epoch < epochs; ++epoch)
    for (std::size_t i = 0; i < batches; ++i) {
      const auto from = x.begin() + static_cast<std::ptrdiff_t>(i * batch_size * inputs);
      losses.push_back(plain.train({from, from + batch_size * inputs}, with_penalty(i)));
      if ((i + 1) % window == 0 || i + 1 == batches) plain.step(i % window + 1, epoch >= unfrozen_at);
      if ((i + 1) % check_every != 0) continue;
      plain.swap_averages();
      val_losses.push_back(plain.validate(v));
      plain.swap_averages();
    }

  EXPECT_EQ(result.global_step, plain.steps);
  EXPECT_EQ(trainer.skipped_steps(), plain.skipped);
  EXPECT_EQ(plain.skipped > 1, PlainModel<Low>::scaled) << "the scale should have overflowed, and again";
  expect_near(model.losses, losses, "loss");
  expect_near(model.val_losses, val_losses, "validation loss");
  expect_near(model.encode.weight.to_vector(), plain.w.value, "weight");
  expect_near(model.decode.to_vector(), plain.w.value, "tied weight");
  expect_near(model.encode.bias.to_vector(), plain.b.value, "bias");
  expect_near(model.shift.to_vector(), plain.shift.value, "shift");
  expect_near(model.scale.to_vector(), plain.scale.value, "frozen scale");
  expect_near(model.critic.to_vector(), plain.critic.value, "critic");
  EXPECT_GT(std::abs(plain.w.value[0] - first[0]), 0.01) << "nothing was trained";
}

TEST(Adversarial, Bf16MixedEqualsTheSameMathsByHand) { expect_equal_by_hand<bf16>("bf16-mixed"); }
TEST(Adversarial, F16MixedEqualsTheSameMathsByHand) { expect_equal_by_hand<f16>("16-mixed"); }

}  // namespace
}  // namespace anneal_test
