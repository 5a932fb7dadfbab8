#include <anneal/anneal.h>

using namespace anneal;

struct Classifier : TrainingModule {
  nn::Sequential net{{this, "net"}, nn::Linear(2, 32), nn::ReLU(), nn::Linear(32, 2)};

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = cross_entropy(net(batch["x"]), batch["y"]);
    step.log("train_loss", loss, {.prog_bar = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    const Tensor hits = eq(argmax(net(batch["x"]), 1), batch["y"]);
    step.log("val_acc", mean(hits.to(DType::f32)), {.prog_bar = true});
  }
  OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters(), {.lr = 1e-2})}; }
};

// Points of the plane; the class says whether both coordinates have the same sign.
DataLoader points(std::int64_t n) {
  const Tensor x = randn({n, 2});
  const Tensor y = gt(prod(x, 1), scalar(0)).to(DType::i64);
  return DataLoader(TensorDataset{{"x", x}, {"y", y}}, {.batch_size = 32, .shuffle = true});
}

int main() {
  manual_seed(1);
  Classifier model;
  Trainer trainer({.max_epochs = 10, .default_root_dir = "runs/first_model"});
  trainer.fit(model, points(2000), points(500));
}
