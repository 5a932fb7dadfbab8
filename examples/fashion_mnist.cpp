// Trains a small convolutional network on Fashion-MNIST and tests the best checkpoint.
#include <anneal/anneal.h>
#include <anneal/kernels/parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <optional>

using namespace anneal;

namespace {

struct Options {
  std::string data = fashion_mnist_folder;
  std::string out = "runs/fashion_mnist";
  std::string resume;
  std::int64_t epochs = 12;
  std::int64_t batch_size = 64;
  double lr = 2e-3;
  std::uint64_t seed = 1;
  int threads = 0;
  std::string device = "auto";
  int devices = 1;
  std::string precision = "32-true";
  std::int64_t overflow_every = 0;
};

struct Cnn : TrainingModule {
  explicit Cnn(const Options& options) : options(options) {}

  nn::Sequential net{{this, "net"},       nn::Conv2d(1, 32, 3, {.padding = 1}),
                     nn::BatchNorm2d(32), nn::ReLU(),
                     nn::MaxPool2d(2),    nn::Conv2d(32, 64, 3, {.padding = 1}),
                     nn::BatchNorm2d(64), nn::ReLU(),
                     nn::MaxPool2d(2),    nn::Flatten(),
                     nn::Dropout(0.3),    nn::Linear(64 * 7 * 7, 128),
                     nn::ReLU(),          nn::Dropout(0.3),
                     nn::Linear(128, 10)};
  Options options;

  // Images are u8 [n, 28, 28]; the numbers are the training images' mean and standard deviation.
  Tensor forward(const Tensor& images) const override {
    const DType dtype = parameters().front().tensor.dtype();
    return net((images.to(dtype) * (1 / 255.0) - 0.2860).unsqueeze(1) * (1 / 0.3530));
  }

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = evaluate(batch, step, "train", 0.05);
    const bool overflows =
        options.overflow_every > 0 && (trainer().total_batch_idx() + 1) % options.overflow_every == 0;
    return overflows ? loss * 1e38 : loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override { evaluate(batch, step, "val"); }
  void test_step(const Batch& batch, StepContext& step) override { evaluate(batch, step, "test"); }

  OptimizerConfig configure_optimizers() override {
    const std::int64_t steps = trainer().estimated_stepping_batches();
    return {{.optimizer = optim::AdamW(parameters(), {.lr = options.lr, .weight_decay = 0.05}),
             .schedule = optim::warmup_cosine(std::min<std::int64_t>(200, steps / 5), steps),
             .interval = Interval::step}};
  }

 private:
  Tensor evaluate(const Batch& batch, StepContext& step, const std::string& stage, double label_smoothing = 0) {
    const Tensor logits = forward(batch["x"]);
    const Tensor loss = cross_entropy(logits, batch["y"], {.label_smoothing = label_smoothing});
    const Tensor hits = eq(argmax(logits.detach(), 1), batch["y"]).to(DType::f32);
    const LogOptions shown{.prog_bar = true, .on_step = false, .on_epoch = true, .sync_dist = true};
    step.log(stage + "_loss", loss, shown);
    step.log(stage + "_acc", mean(hits), shown);
    return loss;
  }
};

// Mirrors each image of a batch, or leaves it, by chance: clothes have no left and right.
void mirror(Batch& batch, Generator& generator) {
  const Tensor images = batch["x"];
  const std::int64_t width = images.size(-1);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    if (generator.below(2) == 0) continue;
    const std::span<std::uint8_t> image = images.select(0, i).span<std::uint8_t>();
    for (auto row = image.begin(); row != image.end(); row += width) std::reverse(row, row + width);
  }
}

Subset rows(const std::shared_ptr<const Dataset>& data, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(end - begin));
  std::iota(indices.begin(), indices.end(), begin);
  return {data, std::move(indices)};
}

void run(const Options& options) {
  set_num_threads(options.threads);
  const auto load = [&](MnistSplit split) {
    const LabelledImages data = load_mnist(options.data, split);
    return std::make_shared<const TensorDataset>(TensorDataset{{"x", data.images}, {"y", data.labels}});
  };
  const std::shared_ptr<const Dataset> train_data = load(MnistSplit::train);
  const std::shared_ptr<const Dataset> test_data = load(MnistSplit::test);
  const std::int64_t held_out = train_data->size() / 12;  // 5,000 images choose the best epoch
  const DataLoader train(rows(train_data, 0, train_data->size() - held_out),
                         {.batch_size = options.batch_size / options.devices,
                          .shuffle = true,
                          .num_workers = 1,
                          .seed = options.seed,
                          .transform = mirror});
  const DataLoader val(rows(train_data, train_data->size() - held_out, train_data->size()), {.batch_size = 500});
  const DataLoader test(test_data, {.batch_size = 500});

  manual_seed(options.seed);
  Cnn model(options);
  const auto checkpoint =
      std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.dirpath = options.out + "/checkpoints",
                                                               .filename = "best",
                                                               .monitor = "val_acc",
                                                               .mode = "max",
                                                               .save_last = true});
  // Overflows that come more often than the scale grows would bring it down to nothing.
  std::optional<optim::GradScalerOptions> scaler;
  if (options.overflow_every > 0) scaler = {.growth_interval = options.overflow_every / 2};
  Trainer trainer({.accelerator = options.device,
                   .devices = options.devices,
                   .precision = options.precision,
                   .grad_scaler = scaler,
                   .max_epochs = options.epochs,
                   .logger = CsvLogger({.dir = options.out}),
                   .callbacks = {checkpoint, CurvePlot()},
                   .default_root_dir = options.out,
                   .seed = options.seed});
  const FitResult result = trainer.fit(model, train, val, {.resume = options.resume});
  const double test_acc = trainer.test(model, test, {.verbose = false, .ckpt = "best"})[0]["test_acc"];

  if (!trainer.is_global_zero()) return;
  std::printf("wrote %s, %s, %s/metrics.csv and %s/curves.svg\n", checkpoint->best_model_path().c_str(),
              checkpoint->last_model_path().c_str(), options.out.c_str(), options.out.c_str());
  if (trainer.skipped_steps() > 0) std::printf("skipped_steps=%lld ", static_cast<long long>(trainer.skipped_steps()));
  std::printf("test_acc=%.4f train_seconds=%.0f\n", test_acc, result.seconds);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a small convolutional network on Fashion-MNIST.");
  app.option_defaults()->always_capture_default();
  app.add_option("--data", options.data, "folder of the four IDX files, plain or gzipped");
  app.add_option("--out", options.out, "where checkpoints, metrics.csv and curves.svg go");
  app.add_option("--resume", options.resume, "go on from a checkpoint: a path, last or best");
  app.add_option("--epochs", options.epochs);
  app.add_option("--batch-size", options.batch_size, "of all ranks together");
  app.add_option("--lr", options.lr, "highest learning rate");
  app.add_option("--seed", options.seed);
  app.add_option("--threads", options.threads, "0: one for each core");
  app.add_option("--device", options.device, "cpu, cuda, or auto: a GPU if there is one");
  app.add_option("--devices", options.devices, "ranks on this machine that share each batch")->check(CLI::Range(1, 64));
  app.add_option("--precision", options.precision, "32-true, 64-true, 16-true, bf16-true, 16-mixed or bf16-mixed");
  app.add_option("--overflow-every", options.overflow_every,
                 "with 16-mixed: every so many batches, a loss too large for it");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "fashion_mnist: %s\n", error.what());
    return 1;
  }
}
