// ModelSummary with an example input: sizes and FLOPs.
#include <gtest/gtest.h>

#include <tuple>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

struct Mixed : Probe {
  Mixed() {
    frozen.set_requires_grad(false);
    weight = zeros({3});
  }
  nn::Linear frozen{{this, "frozen"}, 2, 1};
  nn::Sequential net{{this, "net"}, nn::Linear(2, 300), nn::ReLU(), nn::Linear(300, 1)};
  nn::Linear unused{{this, "unused"}, 1, 1};
  Tensor forward(const Tensor& x) const override { return net(x) + frozen(x); }
  Tensor example_input() const override { return ones({4, 2}); }
};

TEST(Summary, CountsFlopsAndSizesOfAnExample) {
  Mixed model;
  const Summary summary = summarize(model, model.example_input(), 2);
  EXPECT_EQ(summary.trainable, 1204 + 2);
  EXPECT_EQ(summary.non_trainable, 3);
  EXPECT_EQ(summary.other_parameters, 3);
  EXPECT_EQ(summary.flops, 7216);
  ASSERT_EQ(summary.layers.size(), 6u);
  const auto& [frozen, net, first, relu, last, unused] = std::tie(
      summary.layers[0], summary.layers[1], summary.layers[2], summary.layers[3], summary.layers[4], summary.layers[5]);
  EXPECT_EQ(frozen.flops, 16);
  EXPECT_EQ(net.flops, 7200);
  EXPECT_EQ(net.input, (Shape{4, 2}));
  EXPECT_EQ(net.output, (Shape{4, 1}));
  EXPECT_EQ(first.flops, 4800);
  EXPECT_EQ(first.output, (Shape{4, 300}));
  EXPECT_EQ(relu.flops, 0);
  EXPECT_EQ(last.flops, 2400);
  EXPECT_EQ(last.input, (Shape{4, 300}));
  EXPECT_EQ(unused.flops, 0);
  EXPECT_FALSE(unused.input || unused.output);
  EXPECT_EQ(summarize(model, model.example_input()).layers[1].flops, 7200);  // what is not listed counts
  EXPECT_FALSE(summarize(model).flops);
}

TEST(Summary, OfAnExampleIsATable) {
  Mixed model;
  EXPECT_EQ(summarize(model, model.example_input()).text(),
            "  | Name         | Type       | Params | Mode  | FLOPs | In sizes | Out sizes\n"
            "-----------------------------------------------------------------------------\n"
            "0 | frozen       | Linear     | 3      | train | 16    | [4, 2]   | [4, 1]\n"
            "1 | net          | Sequential | 1.2 K  | train | 7.2 K | [4, 2]   | [4, 1]\n"
            "2 | unused       | Linear     | 2      | train | 0     | ?        | ?\n"
            "  | other params |            | 3      |\n"
            "-----------------------------------------------------------------------------\n"
            "1.2 K     trainable params\n"
            "3         non-trainable params\n"
            "1.2 K     params\n"
            "0.005     MB of params and buffers\n"
            "6         layers in train mode\n"
            "0         layers in eval mode\n"
            "7.2 K     FLOPs of a forward");
}

TEST(Summary, FlopsOutsideOfLayersAreTheModels) {
  struct Bare : nn::Module {
    nn::Linear layer{{this, "layer"}, 2, 2};
    Tensor forward(const Tensor& x) const override { return matmul(layer(x), ones({2, 5})); }
  } model;
  const Summary summary = summarize(model, ones({3, 2}));
  EXPECT_EQ(summary.flops, 2 * 3 * 2 * 2 + 2 * 3 * 2 * 5);
  EXPECT_EQ(summary.layers[0].flops, 2 * 3 * 2 * 2);
}

TEST(Summary, AttentionIsALayerAsAny) {
  struct Block : nn::Module {
    nn::MultiheadAttention attention{{this, "attention"}, 8, 2};
    Tensor forward(const Tensor& x) const override { return attention(x, {.is_causal = true}); }
  } model;
  const Summary summary = summarize(model, ones({1, 4, 8}), 2);
  const double projections = 2 * 4 * 8 * (3 * 8 + 8), pairs = 2 * (1 + 2 + 3 + 4), scores = 2 * pairs * (4 + 4);
  EXPECT_EQ(summary.flops, projections + scores);
  EXPECT_EQ(summary.layers[0].flops, projections + scores);
  EXPECT_EQ(summary.layers[0].input, (Shape{1, 4, 8}));
}

TEST(Summary, AForwardLeavesNoTrace) {
  struct Noisy : nn::Module {
    nn::Sequential net{{this, "net"}, nn::Linear(2, 4), nn::BatchNorm1d(4), nn::Dropout(0.5)};
    Tensor forward(const Tensor& x) const override {
      randn({3});
      return net(x);
    }
  } model;
  model.net[2].eval();
  std::vector<std::vector<double>> before;
  for (const NamedTensor& entry : model.state_dict()) before.push_back(entry.tensor.to_vector());
  Generator a(7), b(7);
  {
    const GeneratorScope scope(a);
    summarize(model, ones({3, 2}));
  }
  std::size_t i = 0;
  for (const NamedTensor& entry : model.state_dict()) EXPECT_EQ(entry.tensor.to_vector(), before[i++]) << entry.name;
  EXPECT_TRUE(model.training() && model.net[0].training() && !model.net[2].training());
  EXPECT_EQ(randn({3}, {}, a).to_vector(), randn({3}, {}, b).to_vector());
  EXPECT_FALSE(model.parameters()[0].tensor.grad().defined());
}

TEST(Summary, IsPrintedWithTheExampleOfTheModule) {
  for (const char* precision : {"32-true", "bf16-mixed", "64-true"}) {
    std::string printed;
    TrainerOptions options = quiet({.precision = precision, .max_epochs = 1, .callbacks = {ModelSummary()}});
    options.sink = [&](std::string_view text) { printed += text; };
    Trainer trainer(options);
    Mixed model;
    trainer.fit(model, counting_loader(1));
    EXPECT_NE(printed.find("7.2 K     FLOPs of a forward"), std::string::npos) << precision;
  }
}

TEST(Summary, MayHaveRuledLines) {
  struct Small : Probe {
    nn::Linear layer{{this, "layer"}, 1, 1};
  } model;
  const std::string table = summarize(model).text(true);
  EXPECT_TRUE(
      table.starts_with("┌───┬──────────────┬────────┬────────┬───────┐\n"
                        "│   │ Name         │ Type   │ Params │ Mode  │\n"
                        "├───┼──────────────┼────────┼────────┼───────┤\n"
                        "│ 0 │ layer        │ Linear │ 2      │ train │\n"
                        "│   │ other params │        │ 1      │       │\n"
                        "└───┴──────────────┴────────┴────────┴───────┘\n"
                        "3         trainable params\n"))
      << table;
  std::string printed;
  TrainerOptions options = quiet({.max_epochs = 1, .limit_val_batches = 0, .callbacks = {RichModelSummary()}});
  options.sink = [&](std::string_view text) { printed += text; };
  Trainer(options).fit(model, counting_loader(1));
  EXPECT_EQ(printed, summarize(model).text() + "\n") << "not where there is no terminal";
}

// T-550
TEST(Summary, IsNotPrintedByAResumedRun) {
  const TempFolder dir;
  const auto printed_by = [&](FitOptions fit) {
    std::string printed;
    TrainerOptions options = quiet({.max_epochs = 2, .callbacks = {ModelSummary()}});
    options.sink = [&](std::string_view text) { printed += text; };
    Trainer trainer(options);
    Probe model;
    trainer.fit(model, counting_loader(1), {.resume = fit.resume});
    printed.clear();
    trainer.fit(model, counting_loader(1), fit);
    return printed.find("trainable params") != std::string::npos;
  };
  Probe model;
  Trainer(quiet({.max_epochs = 1, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t) {
                                    t.save_checkpoint(dir / "c.safetensors");
                                  })}}))
      .fit(model, counting_loader(1));
  EXPECT_TRUE(printed_by({}));
  EXPECT_FALSE(printed_by({.resume = (dir / "c.safetensors").string()}));
  EXPECT_FALSE(printed_by({.continue_run = true}));
}

TEST(Summary, NeedsAForward) {
  struct Blind : Probe {
    Tensor example_input() const override { return ones({1}); }
  } model;
  EXPECT_TRUE(message_of<Error>([&] { summarize(model, model.example_input()); }).find("forward") != std::string::npos);
  EXPECT_TRUE(message_of<ConfigError>([&] { summarize(model, ones({1}), -2); }).starts_with("max_depth"));
  EXPECT_FALSE(OpObserver::any());
}

}  // namespace
}  // namespace anneal_test
