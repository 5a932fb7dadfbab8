// Reverse-mode differentiation: graph nodes, how an op records itself, and the engine.
//
// An op computes its result and calls `record<Rule>(result, {inputs}, saved...)`. A rule is a stateless struct with a
// `name` and a `backward` that stands beside the op's forward:
//
//   struct MulRule {
//     static constexpr const char* name = "mul";
//     static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
//       if (dx.wants(0)) dx.set(0, dy * b);
//       if (dx.wants(1)) dx.set(1, dy * a);
//     }
//   };
//   Tensor mul(const Tensor& a, const Tensor& b) { ...; return record<MulRule>(y, {a, b}, a, b); }
//
// Written with public ops, a rule can be differentiated again. Nothing is kept for backward that `record` was not
// given.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

// ---- modes: of the calling thread, restored when the guard goes ----

class ModeScope {
 public:
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 protected:
  ModeScope(bool& mode, bool value) : mode_(mode), before_(std::exchange(mode, value)) {}
  ~ModeScope() { mode_ = before_; }

 private:
  bool& mode_;
  const bool before_;
};

/// Whether ops record themselves. True by default.
bool grad_enabled();
/// While it lives, ops are (not) recorded.
class GradMode : ModeScope {
 public:
  explicit GradMode(bool enabled);
};
class NoGrad : GradMode {
 public:
  NoGrad() : GradMode(false) {}
};

/// Whether an InferenceMode is there.
bool inference_mode_enabled();
/// While it lives, no op is recorded, not even where a GradMode asks for it. torch.inference_mode.
class InferenceMode : ModeScope {
 public:
  explicit InferenceMode(bool enabled = true);
};

/// Whether every op's result and gradient is checked for NaN and infinity.
bool anomaly_enabled();
/// While it lives, the first result or gradient that is not finite throws Error with the op's name. Slow.
class AnomalyMode : ModeScope {
 public:
  explicit AnomalyMode(bool enabled = true);
};

// ---- the graph ----

/// Whether nobody else holds this contiguous tensor or its memory: what is written over it, nobody sees.
bool owned_alone(const Tensor& tensor);

/// Where a kernel may write a gradient: `out = ` or, if `accumulate`, `out += `.
struct Destination {
  Tensor out;
  bool accumulate;
};

/// What a rule fills: one gradient for each input that wants one.
class Gradients {
 public:
  /// `in_place`: kernels may add to gradients that are there; `into_leaves`: to those of leaves too.
  Gradients(std::span<const Ref<Node>> edges, std::span<Tensor> values, bool in_place, bool into_leaves, bool last)
      : edges_(edges), values_(values), in_place_(in_place), into_leaves_(into_leaves), last_(last) {}
  /// Whether input `i` takes part in the backward.
  bool wants(int i) const { return static_cast<bool>(edges_[static_cast<std::size_t>(i)]); }
  void set(int i, Tensor gradient) { values_[static_cast<std::size_t>(i)] = std::move(gradient); }
  /// For rules whose kernel can add to what is there: the leaf's own gradient if input `i` is a leaf with a place for
  /// it, or the sum of what other branches gave input `i` (then nothing is to be set), else a new tensor like `input`,
  /// which is set.
  Destination into(int i, const Tensor& input);
  /// Whether no other backward will need what was saved: a rule may overwrite what is its own.
  bool last() const { return last_; }

 private:
  std::span<const Ref<Node>> edges_;
  std::span<Tensor> values_;
  bool in_place_, into_leaves_, last_;
};

/// One recorded op, or a leaf. Owned by the tensor it made and by the nodes that used that tensor.
class Node : public RefCounted {
 public:
  virtual const char* name() const = 0;
  /// Computes the gradients of the inputs from the gradient of the result.
  virtual void backward(const Tensor& dy, Gradients& dx) = 0;
  /// Drops what was saved.
  virtual void release() noexcept {}
  virtual bool is_leaf() const { return false; }

  /// Where each input's gradient goes; null for inputs that want none.
  std::span<const Ref<Node>> edges() const { return edges_; }
  void add_edge(const Tensor& input) { edges_.push_back(input.defined() ? input.impl().grad_fn : nullptr); }
  void reserve_edges(std::size_t n) { edges_.reserve(n); }

 protected:
  /// A chain of a million nodes is freed by a loop, not by recursion.
  void dispose() noexcept final;

 private:
  friend class Engine;
  friend class Gradients;
  friend class Tensor;

  std::vector<Ref<Node>, PoolAllocator<Ref<Node>>> edges_;
  std::vector<Ref<Hook>, PoolAllocator<Ref<Hook>>> hooks_;
  // The engine's, during a backward: how many gradients are still to come, and the sum of those that came.
  std::int32_t awaited_ = 0;
  Tensor pending_;
  Node* next_dead_ = nullptr;
};

/// What is still to be done to gradients in slots: an optimizer leaves a factor to its next step. Who reads a gradient
/// has it done first.
class DeferredGradients : public RefCounted {
 public:
  virtual void apply() = 0;
  bool pending = false;
};

/// Collects the gradient of a tensor that asked for one.
class Leaf final : public Node {
 public:
  const char* name() const override { return "leaf"; }
  void backward(const Tensor&, Gradients&) override {}
  bool is_leaf() const override { return true; }

  /// The memory for the gradient: a slot of an arena, or what the first backward left. Undefined: none yet.
  Tensor slot;
  /// Whether `slot` holds a gradient. Cleared instead of writing zeros; the next contribution then overwrites.
  bool touched = false;
  /// The same gradient as part of a graph, after a backward with create_graph.
  Tensor recorded;
  /// May be null.
  Ref<DeferredGradients> deferred;
};
/// The leaf of a tensor that asked for gradients, else null.
Leaf* leaf_of(const Tensor& tensor);

/// Gradients of `outputs`' sum with respect to each of `inputs`, which may stand anywhere in the graph; leaves collect
/// nothing. Undefined for inputs that do not take part. `create_graph` records the computation, so that the results can
/// be differentiated again (rules with fused kernels that cannot throw Error and say so); `retain_graph` keeps what was
/// saved for another backward, and defaults to `create_graph`.
struct GradOptions {
  bool create_graph = false;
  bool retain_graph = false;
};
std::vector<Tensor> grad(const Tensor& output, std::span<const Tensor> inputs, GradOptions options = {},
                         const Tensor& output_gradient = {});
std::vector<Tensor> grad(const Tensor& output, std::initializer_list<Tensor> inputs, GradOptions options = {},
                         const Tensor& output_gradient = {});
/// As Tensor::backward, with options.
void backward(const Tensor& output, const Tensor& gradient, GradOptions options);

// ---- recording ----

/// For rules with a fused kernel that has no rule itself: throws Error in a backward that is being recorded.
inline void check_differentiated_once(const char* op) {
  check(!grad_enabled(), "{}: its gradient is a fused kernel and cannot be differentiated again (create_graph)", op);
}

/// A tensor kept for backward. It remembers the version of its memory: a later write in place makes `get` throw Error.
class SavedTensor {
 public:
  SavedTensor() = default;
  SavedTensor(const Tensor& tensor, const Tensor& result);
  /// `node` is the one that saved it. Throws Error when it was changed or already released.
  Tensor get(Node& node) const;

 private:
  Tensor tensor_;  // the result itself is kept detached, or its node would own itself
  std::uint32_t version_ = 0;
  bool defined_ = false;
  bool is_result_ = false;
};

namespace detail {

template <class T>
struct Saved {
  T value;
  Saved(const T& v, const Tensor&) : value(v) {}
  const T& get(Node&) const { return value; }
  void release() {}
};
template <>
struct Saved<Tensor> {
  SavedTensor value;
  Saved(const Tensor& v, const Tensor& result) : value(v, result) {}
  Tensor get(Node& node) const { return value.get(node); }
  void release() { value = {}; }
};

template <class Rule, class... Args>
class Recorded final : public Node {
 public:
  Recorded(const Tensor& result, const Args&... args) : saved_(Saved<Args>(args, result)...) {}
  const char* name() const override { return Rule::name; }
  void backward(const Tensor& dy, Gradients& dx) override {
    check(!released_, "{}: backward a second time; what it saved is gone. Pass .retain_graph = true to the first",
          name());
    std::apply([&](auto&... saved) { Rule::backward(dy, dx, saved.get(*this)...); }, saved_);
  }
  void release() noexcept override {
    std::apply([](auto&... saved) { (saved.release(), ...); }, saved_);
    released_ = true;
  }

 private:
  std::tuple<Saved<Args>...> saved_;
  bool released_ = false;
};

void check_finite(const Tensor& tensor, const char* op, const char* what);
void attach(const Tensor& result, Ref<Node> node);

}  // namespace detail

/// A reference to an input of an op; an undefined tensor is an input that is absent.
struct Input {
  const Tensor* tensor;
  Input(const Tensor& t) : tensor(&t) {}
  operator const Tensor&() const { return *tensor; }
};

/// Makes `result` the output of `Rule` if recording is on and an input wants gradients; keeps `saved` for backward.
/// Returns `result`.
template <class Rule, class Inputs, class... Args>
Tensor record_all(Tensor result, const Inputs& inputs, const Args&... saved) {
  if (anomaly_enabled()) detail::check_finite(result, Rule::name, "result");
  if (!grad_enabled()) return result;
  bool wanted = false;
  for (const Tensor& input : inputs) wanted = wanted || input.requires_grad();
  if (!wanted) return result;
  Ref<Node> node(new detail::Recorded<Rule, Args...>(result, saved...));
  node->reserve_edges(std::size(inputs));
  for (const Tensor& input : inputs) node->add_edge(input);
  detail::attach(result, std::move(node));
  return result;
}
template <class Rule, class... Args>
Tensor record(Tensor result, std::initializer_list<Input> inputs, const Args&... saved) {
  return record_all<Rule>(std::move(result), inputs, saved...);
}

}  // namespace v0
}  // namespace anneal
