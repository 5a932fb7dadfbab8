// The models of `scripts/bench steps`; bench/peers/torch_step.py has the same ones.
#pragma once

#include <anneal/anneal.h>

#include <utility>

namespace bench {

using anneal::Tensor;
namespace nn = anneal::nn;

inline nn::Sequential mlp(std::int64_t hidden) {
  return nn::Sequential(nn::Flatten(), nn::Linear(784, hidden), nn::ReLU(), nn::Linear(hidden, hidden), nn::ReLU(),
                        nn::Linear(hidden, 10));
}

inline nn::Sequential lenet() {
  return nn::Sequential(nn::Conv2d(1, 32, 3, {.padding = 1}), nn::ReLU(), nn::MaxPool2d(2),
                        nn::Conv2d(32, 64, 3, {.padding = 1}), nn::ReLU(), nn::MaxPool2d(2), nn::Flatten(),
                        nn::Linear(64 * 49, 128), nn::ReLU(), nn::Linear(128, 10));
}

// ---- ResNet-18 (He et al. 2015) in its form for images of 32x32 ----

struct ResidualBlock : nn::Module {
  ResidualBlock(std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1{{this, "conv1"}, in, out, 3, {.stride = stride, .padding = 1, .bias = false}},
        norm1{{this, "norm1"}, out},
        conv2{{this, "conv2"}, out, out, 3, {.padding = 1, .bias = false}},
        norm2{{this, "norm2"}, out},
        shortcut{{this, "shortcut"}} {
    if (stride != 1 || in != out)
      shortcut.add(nn::Conv2d(in, out, 1, {.stride = stride, .bias = false})).add(nn::BatchNorm2d(out));
  }
  Tensor forward(const Tensor& x) const override { return relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)); }

  nn::Conv2d conv1;
  nn::BatchNorm2d norm1;
  nn::Conv2d conv2;
  nn::BatchNorm2d norm2;
  nn::Sequential shortcut;
};

struct ResNet18 : nn::Module {
  ResNet18() {
    std::int64_t in = 64;
    for (const auto& [out, stride] : {std::pair(64, 1), std::pair(128, 2), std::pair(256, 2), std::pair(512, 2)}) {
      body.add(ResidualBlock(in, out, stride)).add(ResidualBlock(out, out, 1));
      in = out;
    }
  }
  Tensor forward(const Tensor& x) const override { return head(mean(body(x), {2, 3})); }

  nn::Sequential body{
      {this, "body"}, nn::Conv2d(3, 64, 3, {.padding = 1, .bias = false}), nn::BatchNorm2d(64), nn::ReLU()};
  nn::Linear head{{this, "head"}, 512, 10};
};

// ---- GPT-2 (Radford et al. 2019) ----

/// Each position attends to itself and those before: queries, keys and values [batch, time, 3 width] -> [batch, time,
/// width].
inline Tensor causal_attention(const Tensor& qkv, std::int64_t heads) {
  const std::int64_t batch = qkv.size(0), time = qkv.size(1), width = qkv.size(2) / 3;
  const Tensor heads_apart = qkv.view({batch, time, 3, heads, width / heads});
  return scaled_dot_product_attention(heads_apart, {.is_causal = true}).transpose(1, 2).reshape({batch, time, width});
}

struct GptBlock : nn::Module {
  GptBlock(std::int64_t width, std::int64_t heads)
      : norm1{{this, "norm1"}, width},
        qkv{{this, "qkv"}, width, 3 * width},
        project{{this, "project"}, width, width},
        norm2{{this, "norm2"}, width},
        up{{this, "up"}, width, 4 * width},
        down{{this, "down"}, 4 * width, width},
        heads(heads) {}
  Tensor forward(const Tensor& x) const override {
    const auto [h, normed] =
        add_layer_norm(x, project(causal_attention(qkv(norm1(x)), heads)), norm2.weight, norm2.bias);
    return h + down(gelu_tanh(up(normed)));
  }

  nn::LayerNorm norm1;
  nn::Linear qkv, project;
  nn::LayerNorm norm2;
  nn::Linear up, down;
  std::int64_t heads;
};

struct Gpt : nn::Module {
  struct Sizes {
    std::int64_t vocabulary, context, layers, heads, width;
  };
  explicit Gpt(Sizes s)
      : tokens{{this, "tokens"}, s.vocabulary, s.width},
        positions{{this, "positions"}, s.context, s.width},
        blocks{{this, "blocks"}},
        norm{{this, "norm"}, s.width} {
    for (std::int64_t i = 0; i < s.layers; ++i) blocks.add(GptBlock(s.width, s.heads));
  }
  /// Tokens [batch, time] -> logits [batch, time, vocabulary]; the head's weight is the embedding's.
  Tensor forward(const Tensor& x) const override {
    const Tensor time = anneal::arange(x.size(1), {.dtype = anneal::DType::i64, .device = x.device()});
    return linear(norm(blocks(tokens(x) + positions(time))), tokens.weight);
  }

  nn::Embedding tokens, positions;
  nn::Sequential blocks;
  nn::LayerNorm norm;
};

}  // namespace bench
