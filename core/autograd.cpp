#include "anneal/core/autograd.h"

#include <cmath>

#include "anneal/core/autocast.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

thread_local bool grad_mode = true;
thread_local bool inference_mode = false;
thread_local bool anomaly_mode = false;

}  // namespace

bool grad_enabled() { return grad_mode && !inference_mode; }
GradMode::GradMode(bool enabled) : ModeScope(grad_mode, enabled) {}

bool inference_mode_enabled() { return inference_mode; }
InferenceMode::InferenceMode(bool enabled) : ModeScope(inference_mode, enabled) {}

bool anomaly_enabled() { return anomaly_mode; }
AnomalyMode::AnomalyMode(bool enabled) : ModeScope(anomaly_mode, enabled) {}

// ---- nodes ----

void Node::dispose() noexcept {
  // Deleting a node drops its inputs, which may be the last references to their nodes, and so on: whoever is first on
  // this thread deletes, the others queue.
  thread_local Node* queue = nullptr;
  thread_local bool deleting = false;
  next_dead_ = std::exchange(queue, this);
  if (deleting) return;
  deleting = true;
  while (queue) {
    Node* node = std::exchange(queue, queue->next_dead_);
    delete node;
  }
  deleting = false;
}

SavedTensor::SavedTensor(const Tensor& tensor, const Tensor& result) {
  if (!tensor.defined()) return;
  defined_ = true;
  is_result_ = tensor.same(result);
  tensor_ = is_result_ ? tensor.detach() : tensor;
  version_ = tensor.impl().storage->version();
}

Tensor SavedTensor::get(Node& node) const {
  if (!defined_) return {};
  const std::uint32_t now = tensor_.impl().storage->version();
  check(now == version_,
        "{}: a tensor of shape {} that it needs for backward was changed in place afterwards (version {}, saved at {})",
        node.name(), tensor_.shape(), now, version_);
  if (!is_result_ || !grad_enabled()) return tensor_;
  Tensor attached = tensor_.detach();
  attached.impl().grad_fn = Ref<Node>(&node);
  return attached;
}

namespace detail {

void attach(const Tensor& result, Ref<Node> node) { result.impl().grad_fn = std::move(node); }

void check_finite(const Tensor& tensor, const char* op, const char* what) {
  if (!tensor.defined() || !is_floating(tensor.dtype())) return;
  const AnomalyMode off(false);  // reading a strided tensor copies it, and the copy is not to blame
  const std::vector<double> values = tensor.to_vector();
  for (std::size_t i = 0; i < values.size(); ++i)
    check<AnomalyError>(std::isfinite(values[i]), "{}: its {}, of shape {}, has {} at element {}", op, what,
                        tensor.shape(), values[i], i);
}

}  // namespace detail

// ---- the engine ----

bool owned_alone(const Tensor& tensor) {
  const Storage& storage = *tensor.impl().storage;
  return tensor.impl().references() == 1 && storage.references() == 1 && storage.owns_memory() &&
         tensor.is_contiguous();
}

Destination Gradients::into(int i, const Tensor& input) {
  const auto index = static_cast<std::size_t>(i);
  Node* node = edges_[index].get();
  if (into_leaves_ && node->is_leaf()) {
    Leaf& leaf = *static_cast<Leaf*>(node);
    if (leaf.slot.defined()) {
      leaf.slot.bump_version();
      return {leaf.slot, std::exchange(leaf.touched, true)};
    }
  }
  if (const Tensor& sum = node->pending_;
      in_place_ && sum.defined() && owned_alone(sum) && sum.shape() == input.shape() && sum.dtype() == input.dtype()) {
    sum.bump_version();
    return {sum, true};
  }
  values_[index] = empty(input.shape(), {.dtype = input.dtype(), .device = input.device()});
  return {values_[index], false};
}

namespace {

// Buffers that a thread keeps from one backward to the next.
struct Workspace {
  std::vector<Node*> reached, ready, sweep;
  std::vector<Tensor> values;
};

Workspace& spare_workspace() {
  thread_local Workspace spare;
  return spare;
}

}  // namespace

/// One backward pass.
class Engine {
 public:
  Engine(GradOptions options, bool into_leaves)
      : options_(options), into_leaves_(into_leaves), work_(std::move(spare_workspace())) {}

  ~Engine() {
    for (Node* node : work_.reached) {
      node->awaited_ = 0;
      node->pending_ = {};
    }
    constexpr std::size_t kept = 4096;
    if (work_.reached.capacity() > kept) return;  // do not hold on to what one huge graph needed
    work_.reached.clear();
    work_.ready.clear();
    work_.values.clear();
    spare_workspace() = std::move(work_);
  }

  /// Leaves collect gradients unless this is for `captured`, whose gradients are left there.
  void run(const Tensor& root, const Tensor& seed, std::span<const Tensor> inputs, std::span<Tensor> captured) {
    const GradMode mode(options_.create_graph);
    const Autocast as_they_come(std::nullopt);  // gradients have the dtypes of their tensors
    const Ref<Node> root_node = root.impl().grad_fn;
    count(root_node.get());
    arrive(root_node.get(), seed);
    while (!work_.ready.empty()) {
      Node* node = work_.ready.back();
      work_.ready.pop_back();
      Tensor gradient = std::move(node->pending_);
      node->pending_ = {};
      if (gradient.defined()) call_hooks(*node, gradient);
      for (std::size_t i = 0; i < inputs.size(); ++i)
        if (inputs[i].impl().grad_fn.get() == node) captured[i] = gradient;
      if (!node->is_leaf()) step(*node, gradient);
    }
  }

 private:
  // How many gradients each node and leaf will get.
  void count(Node* root) {
    const auto reach = [&](Node* node) {
      if (node->awaited_++ == 0) {
        work_.reached.push_back(node);
        work_.sweep.push_back(node);
      }
    };
    reach(root);
    while (!work_.sweep.empty()) {
      Node* node = work_.sweep.back();
      work_.sweep.pop_back();
      for (const Ref<Node>& edge : node->edges())
        if (edge) reach(edge.get());
    }
  }

  void step(Node& node, const Tensor& gradient) {
    const auto edges = node.edges();
    auto& values = work_.values;
    values.assign(edges.size(), Tensor());
    if (gradient.defined()) {
      const bool in_place = !options_.create_graph && !anomaly_enabled();
      Gradients dx(edges, values, in_place, into_leaves_ && in_place, !options_.retain_graph);
      node.backward(gradient, dx);
      if (anomaly_enabled())
        for (const Tensor& value : values) detail::check_finite(value, node.name(), "gradient");
    }
    if (!options_.retain_graph) node.release();
    // Last input first, so that the first one is on top of the stack and its branch runs first.
    for (std::size_t i = edges.size(); i-- > 0;)
      if (edges[i]) arrive(edges[i].get(), std::exchange(values[i], Tensor()));
  }

  void arrive(Node* node, Tensor gradient) {
    if (gradient.defined()) {
      if (into_leaves_ && node->is_leaf()) collect(*static_cast<Leaf*>(node), std::move(gradient));
      else add(node->pending_, std::move(gradient));
    }
    if (--node->awaited_ > 0) return;
    if (into_leaves_ && node->is_leaf()) {
      Leaf& leaf = *static_cast<Leaf*>(node);
      Tensor complete = leaf.recorded.defined() ? leaf.recorded : leaf.slot;
      if (leaf.touched) call_hooks(leaf, complete);
    } else {
      work_.ready.push_back(node);
    }
  }

  void add(Tensor& sum, Tensor gradient) {
    if (!sum.defined()) sum = std::move(gradient);
    else if (!options_.create_graph && owned_alone(sum)) sum.add_(gradient);
    else sum = sum + gradient;
  }

  void collect(Leaf& leaf, Tensor gradient) {
    if (options_.create_graph) {
      if (!leaf.touched) leaf.recorded = gradient;
      else leaf.recorded = (leaf.recorded.defined() ? leaf.recorded : leaf.slot.clone()) + gradient;
    }
    const NoGrad no_grad;
    if (leaf.touched) leaf.slot.add_(gradient);
    else if (leaf.slot.defined()) leaf.slot.copy_(gradient);
    else if (!options_.create_graph && owned_alone(gradient)) leaf.slot = std::move(gradient);
    else leaf.slot = gradient.detach().clone();
    leaf.touched = true;
  }

  static void call_hooks(Node& node, Tensor& gradient) {
    for (const Ref<Hook>& hook : node.hooks_) {
      Tensor replaced = hook->call(gradient);
      if (!replaced.defined()) continue;
      check(!node.is_leaf(), "a hook on a leaf cannot replace its gradient; change it in place");
      check(replaced.shape() == gradient.shape(),
            "a hook on the result of {} returned shape {} for a gradient of shape {}", node.name(), replaced.shape(),
            gradient.shape());
      gradient = std::move(replaced);
    }
  }

  GradOptions options_;
  bool into_leaves_;
  Workspace work_;
};

namespace {

Tensor seed_for(const Tensor& output, const Tensor& gradient) {
  check(output.requires_grad(),
        "backward: the tensor does not require gradients; no input of it does, or recording was off");
  if (!gradient.defined()) {
    check(output.numel() == 1, "backward: expected a scalar, got shape {}; give the gradient of the result",
          output.shape());
    return ones(output.shape(), {.dtype = output.dtype(), .device = output.device()});
  }
  check_devices("backward", output, gradient);
  check(gradient.shape() == output.shape() && gradient.dtype() == output.dtype(),
        "backward: the gradient of a {} tensor of shape {} cannot be {} of shape {}", name_of(output.dtype()),
        output.shape(), name_of(gradient.dtype()), gradient.shape());
  return gradient;
}

}  // namespace

void backward(const Tensor& output, const Tensor& gradient, GradOptions options) {
  const Tensor seed = seed_for(output, gradient);
  options.retain_graph = options.retain_graph || options.create_graph;
  Engine(options, true).run(output, seed, {}, {});
}

void Tensor::backward() const { v0::backward(*this, {}, {}); }
void Tensor::backward(const Tensor& gradient) const { v0::backward(*this, gradient, {}); }

std::vector<Tensor> grad(const Tensor& output, std::span<const Tensor> inputs, GradOptions options,
                         const Tensor& output_gradient) {
  const Tensor seed = seed_for(output, output_gradient);
  for (const Tensor& input : inputs) check(input.requires_grad(), "grad: an input does not require gradients");
  options.retain_graph = options.retain_graph || options.create_graph;
  std::vector<Tensor> gradients(inputs.size());
  Engine(options, false).run(output, seed, inputs, gradients);
  return gradients;
}
std::vector<Tensor> grad(const Tensor& output, std::initializer_list<Tensor> inputs, GradOptions options,
                         const Tensor& output_gradient) {
  return grad(output, std::span(inputs.begin(), inputs.size()), options, output_gradient);
}

}  // namespace v0
}  // namespace anneal
