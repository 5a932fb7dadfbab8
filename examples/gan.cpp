// A generative adversarial network (Goodfellow et al. 2014) that learns eight spots on a circle, by manual
// optimization.
#include <anneal/anneal.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <numbers>

using namespace anneal;

namespace {

constexpr std::int64_t noise_size = 8;
constexpr int spots = 8;
constexpr double spread = 0.05;

// Points [n, 2] around the corners of an octagon of radius 1.
Tensor real_points(std::int64_t n) {
  const Tensor angle = randint(0, spots, {n}).to(DType::f32) * (2 * std::numbers::pi / spots);
  return stack({cos(angle), sin(angle)}, 1) + randn({n, 2}) * spread;
}

struct Gan : TrainingModule {
  nn::Sequential generator{{this, "generator"}, nn::Linear(noise_size, 128), nn::ReLU(), nn::Linear(128, 128),
                           nn::ReLU(),          nn::Linear(128, 2)};
  nn::Sequential critic{{this, "critic"},     nn::Linear(2, 128), nn::ReLU(),
                        nn::Linear(128, 128), nn::ReLU(),         nn::Linear(128, 1)};

  bool automatic_optimization() const override { return false; }

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor real = batch["x"], noise = randn({real.size(0), noise_size});
    {
      const auto only = toggled(1);
      const Tensor loss = verdict(real, true) + verdict(generator(noise), false);
      update(1, loss);
      step.log("critic_loss", loss, {.prog_bar = true});
    }
    const auto only = toggled(0);
    const Tensor loss = verdict(generator(noise), true);
    update(0, loss);
    step.log("generator_loss", loss, {.prog_bar = true});
    return loss;
  }

  Batch predict_step(const Batch& batch, StepContext&) override { return {{"points", generator(batch["noise"])}}; }

  OptimizerConfig configure_optimizers() override {
    const optim::AdamWOptions options{.lr = 1e-3, .beta1 = 0.5, .weight_decay = 0};
    return {{.optimizer = optim::AdamW(generator.parameters(), options), .name = "lr-generator"},
            {.optimizer = optim::AdamW(critic.parameters(), options), .name = "lr-critic"}};
  }

 private:
  // How far the critic is from calling the points real, or not.
  Tensor verdict(const Tensor& points, bool real) const {
    const Tensor logits = critic(points);
    return binary_cross_entropy_with_logits(logits, full(logits.shape(), real ? 1 : 0));
  }
  void update(std::size_t i, const Tensor& loss) {
    manual_backward(loss);
    optimizer(i).step();
    optimizer(i).zero_grad();
  }
};

}  // namespace

int main() try {
  manual_seed(1);
  const DataLoader train(TensorDataset{{"x", real_points(25600)}}, {.batch_size = 256, .shuffle = true});
  Gan gan;
  Trainer trainer({.max_epochs = 40, .logger = false, .enable_checkpointing = false, .seed = 1});
  trainer.fit(gan, train);

  // How many of its points lie near a spot, and how many spots have some.
  const DataLoader noise(TensorDataset{{"noise", randn({1000, noise_size})}}, {.batch_size = 1000});
  const std::vector<double> points = trainer.predict(gan, noise)[0]["points"].to_vector();
  std::array<int, spots> near{};
  for (std::size_t i = 0; i < points.size(); i += 2) {
    const double x = points[i], y = points[i + 1];
    const double turn = std::atan2(y, x) / (2 * std::numbers::pi) * spots;
    const double angle = std::round(turn) * 2 * std::numbers::pi / spots;
    if (std::hypot(x - std::cos(angle), y - std::sin(angle)) < 4 * spread)
      ++near[static_cast<std::size_t>(std::lround(turn) + spots) % spots];
  }
  int total = 0, found = 0;
  for (const int n : near) {
    total += n;
    found += n > 20;
  }
  std::printf("%d of 1000 points are near a spot; %d of %d spots found\n", total, found, spots);
} catch (const Error& error) {
  std::fprintf(stderr, "gan: %s\n", error.what());
  return 1;
}
