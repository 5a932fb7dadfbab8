// Trains a small GPT on the letters of a text file and lets it write: char_lm TEXT
#include <anneal/anneal.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <span>

using namespace anneal;

namespace {

constexpr std::int64_t context = 64, width = 128, heads = 4, layers = 4;

struct Block : nn::Module {
  Block()
      : norm1{{this, "norm1"}, width},
        attention{{this, "attention"}, width, heads},
        norm2{{this, "norm2"}, width},
        mlp{{this, "mlp"}, nn::Linear(width, 4 * width), nn::GELU(), nn::Linear(4 * width, width)} {}
  Tensor forward(const Tensor& x) const override {
    const Tensor h = x + attention(norm1(x), {.is_causal = true});
    return h + mlp(norm2(h));
  }
  nn::LayerNorm norm1;
  nn::MultiheadAttention attention;
  nn::LayerNorm norm2;
  nn::Sequential mlp;
};

struct CharLm : TrainingModule {
  explicit CharLm(std::int64_t letters)
      : tokens{{this, "tokens"}, letters, width},
        positions{{this, "positions"}, context, width},
        blocks{{this, "blocks"}},
        norm{{this, "norm"}, width},
        head{{this, "head"}, width, letters} {
    for (std::int64_t i = 0; i < layers; ++i) blocks.add(Block());
  }
  // Letters [n, time] -> logits of the next ones [n, time, letters].
  Tensor forward(const Tensor& x) const override {
    return head(norm(blocks(tokens(x) + positions(arange(x.size(1), {.dtype = DType::i64})))));
  }
  Tensor training_step(const Batch& batch, StepContext& step) override { return loss(batch, step, "train_loss"); }
  void validation_step(const Batch& batch, StepContext& step) override { loss(batch, step, "val_loss"); }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = 2e-3, .weight_decay = 0.1}),
            optim::warmup_cosine(50, trainer().estimated_stepping_batches()), Interval::step};
  }

  nn::Embedding tokens, positions;
  nn::Sequential blocks;
  nn::LayerNorm norm;
  nn::Linear head;

 private:
  Tensor loss(const Batch& batch, StepContext& step, const char* name) {
    const Tensor logits = forward(batch["x"]);
    const Tensor loss = cross_entropy(logits.reshape({-1, logits.size(2)}), batch["y"].reshape({-1}));
    step.log(name, loss, {.prog_bar = true, .on_epoch = true});
    return loss;
  }
};

// Pieces of `context` letters and, one further, what comes next.
TensorDataset pieces(const std::vector<double>& text) {
  const auto n = (static_cast<std::int64_t>(text.size()) - 1) / context;
  const Tensor all = tensor(text, {std::ssize(text)}, {.dtype = DType::i64});
  return {{"x", all.slice(0, 0, n * context).reshape({n, context})},
          {"y", all.slice(0, 1, n * context + 1).reshape({n, context})}};
}

}  // namespace

int main(int argc, char** argv) try {
  check(argc == 2, "usage: char_lm TEXT");
  std::ifstream file(argv[1]);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  check(text.size() > 100 * context, "{}: expected at least {} letters, got {}", argv[1], 100 * context, text.size());
  const std::set<char> distinct(text.begin(), text.end());
  const std::vector<char> letters(distinct.begin(), distinct.end());
  std::vector<double> ids;
  for (const char c : text)
    ids.push_back(static_cast<double>(std::lower_bound(letters.begin(), letters.end(), c) - letters.begin()));
  const auto cut = ids.begin() + static_cast<std::ptrdiff_t>(ids.size() * 9 / 10);

  manual_seed(1);
  CharLm model(static_cast<std::int64_t>(letters.size()));
  Trainer trainer({.max_epochs = 2, .gradient_clip_val = 1, .enable_checkpointing = false, .seed = 1});
  trainer.fit(model, DataLoader(pieces({ids.begin(), cut}), {.batch_size = 32, .shuffle = true}),
              DataLoader(pieces({cut, ids.end()}), {.batch_size = 32}));

  model.eval();
  const NoGrad no_grad;
  std::vector<double> written{ids.front()};
  for (int i = 0; i < 300; ++i) {
    const std::int64_t seen = std::min<std::int64_t>(std::ssize(written), context);
    const std::span<const double> last = std::span(written).last(static_cast<std::size_t>(seen));
    const Tensor logits = model.forward(tensor(last, {1, seen}, {.dtype = DType::i64}));
    const std::vector<double> p = softmax(logits.select(1, seen - 1), -1).to_vector();
    double left = rand({1}).item();
    std::size_t next = 0;
    while (next + 1 < p.size() && (left -= p[next]) > 0) ++next;
    written.push_back(static_cast<double>(next));
  }
  for (const double id : written) std::putchar(letters[static_cast<std::size_t>(id)]);
  std::putchar('\n');
} catch (const Error& error) {
  std::fprintf(stderr, "char_lm: %s\n", error.what());
  return 1;
}
