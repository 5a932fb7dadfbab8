// Modules: layers and models with named parameters, built as plain members.
//
//   struct Block : nn::Module {
//     Block(nn::Slot at, int d) : Module(at), up{{this, "up"}, d, 4 * d}, down{{this, "down"}, 4 * d, d} {}
//     Tensor forward(const Tensor& x) const override { return x + down(gelu(up(x))); }
//     nn::Linear up, down;
//   };
//
// A member is told its parent and its name as it is built; nothing else registers it. Modules can be moved, and the
// names go along. They are not copied but by `clone`.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "anneal/core/named_tensor.h"

namespace anneal {
inline namespace v0 {
namespace nn {

class Module;

/// Where a member stands: `nn::Linear fc{{this, "fc"}, 784, 10};`. The default: nowhere, for modules of their own.
struct Slot {
  Module* parent = nullptr;
  std::string_view name = {};
};

/// A tensor that is trained. Assigning a tensor or another parameter to it ties the two: they are one tensor with two
/// names.
class Parameter : public Tensor {
 public:
  /// Asks for gradients if the dtype is floating. An undefined `value` (a layer without bias) registers nothing.
  Parameter(Slot at, Tensor value);
  Parameter& operator=(const Tensor& value);
  Parameter(const Parameter&) = default;
  Parameter& operator=(const Parameter&) = default;
};

/// A tensor that is saved with the model but not trained: running statistics, masks.
class Buffer : public Tensor {
 public:
  Buffer(Slot at, Tensor value);
  Buffer(const Buffer&) = default;
  Buffer& operator=(const Buffer&) = default;
};

/// While it lives, it is told of each call of a module (operator()) on its thread, with what went in and what came out.
/// One of them at a time; an inner one has its turn and then the outer one again.
class ModuleObserver {
 public:
  ModuleObserver() : outer_(std::exchange(active_, this)) {}
  virtual ~ModuleObserver() { active_ = outer_; }
  ModuleObserver(const ModuleObserver&) = delete;
  ModuleObserver& operator=(const ModuleObserver&) = delete;

  virtual void enter(const Module& module, const Tensor& x) = 0;
  /// Not for a call that threw.
  virtual void leave(const Module& module, const Tensor& y) = 0;
  /// The calling thread's, or null.
  static ModuleObserver* active() { return active_; }

 private:
  static inline constinit thread_local ModuleObserver* active_ = nullptr;
  ModuleObserver* outer_;
};

/// Base of all layers and models.
class Module {
 public:
  /// Registers the module with its parent, if it has one. Throws Error when the parent has that name already.
  explicit Module(Slot at = {});
  Module(Module&& other) noexcept;
  Module& operator=(Module&& other) noexcept;
  virtual ~Module();

  /// What the module makes of an input. Layers and models of one input override it; others have methods of their own.
  virtual Tensor forward(const Tensor& x) const;
  Tensor operator()(const Tensor& x) const {
    return observed(x, [&] { return forward(x); });
  }

  /// Parameters by full name ("body.0.weight"), those of this module first, then its children's, in order of
  /// declaration. A tied parameter is listed once, under its first name.
  std::vector<NamedTensor> parameters() const;
  std::vector<NamedTensor> buffers() const;

  /// Parameters and buffers under all their names; the tensors are the module's own, not copies.
  StateDict state_dict() const;
  /// Copies values into the parameters and buffers. Throws Error, and changes nothing, if a name is missing or
  /// unexpected (unless `strict` is false) or a shape differs; the text lists them all.
  void load_state_dict(std::span<const NamedTensor> state, bool strict = true);

  /// Training mode, for this module and everything in it: dropout drops, batch norm uses the batch. True at first.
  virtual void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  /// Converts floating parameters and buffers in place; every handle to them follows. Gradients are forgotten.
  void to(DType dtype);
  void to(Device device);
  /// Freezes (or unfreezes) all parameters.
  void set_requires_grad(bool on);
  void zero_grad() const;
  /// How many elements the parameters have, tied ones once.
  std::int64_t numel() const;

  /// Calls f(name, child) for each direct child.
  template <class F>
  void for_each_child(F&& f) const {
    for (const Child& child : children_) f(child.name, at(child));
  }
  /// The type's name, for summaries: "Linear".
  virtual std::string type_name() const;

 protected:
  // For clone, which then gives the copy tensors of its own. Throws Error elsewhere.
  Module(const Module& other);

  /// Makes a module that lives outside this object (on the heap) a child; it must outlive this one's use.
  void adopt(std::string name, Module& child);

  /// What every operator() is: calls `forward`, which makes the result of x, and tells the ModuleObserver.
  template <class F>
  Tensor observed(const Tensor& x, const F& forward) const {
    ModuleObserver* const observer = ModuleObserver::active();
    if (observer) [[unlikely]]
      observer->enter(*this, x);
    Tensor y = forward();
    if (observer) [[unlikely]]
      observer->leave(*this, y);
    return y;
  }

 private:
  friend class Parameter;
  friend class Buffer;
  friend class CloneScope;
  template <class M>
  friend M clone(const M& module);
  friend void check_registered(const Module& root, std::size_t bytes);

  // A member stands at a fixed offset, so that it moves with its parent; an adopted one at a fixed address.
  struct Child {
    std::string name;
    std::ptrdiff_t offset;
    Module* adopted = nullptr;
  };
  struct Own {
    std::string name;
    std::ptrdiff_t offset;
    bool trained;
  };
  Module& at(const Child& child) const;
  Tensor& at(const Own& own) const;

  void register_tensor(std::string_view name, const Tensor& tensor, bool trained);
  void check_new_name(std::string_view name) const;
  // Calls f(full name, tensor, trained) for every tensor of this module and below, tied ones under each name.
  void visit(const std::string& prefix, const std::function<void(const std::string&, Tensor&, bool)>& f) const;
  // Calls f once for every distinct tensor.
  void visit_once(const std::function<void(const std::string&, Tensor&, bool)>& f) const;
  void convert(const std::function<Tensor(const Tensor&)>& convert) const;
  void make_tensors_own();

  std::vector<Child> children_;
  std::vector<Own> own_;
  bool training_ = true;
  bool has_parent_ = false;
};

/// Throws Error if a module without a slot lies within the `bytes` of `root`'s object: it would not be trained.
void check_registered(const Module& root, std::size_t bytes);

/// All parameters of a model, after checking that no layer in it was forgotten.
template <class M>
std::vector<NamedTensor> parameters(const M& model) {
  check_registered(model, sizeof(M));
  return model.parameters();
}

/// While it lives, modules may be copied on this thread.
class CloneScope {
 public:
  CloneScope();
  ~CloneScope();
  static bool active();
};

/// A deep copy: the same values in tensors of its own; tied parameters stay tied.
template <class M>
M clone(const M& module) {
  M copy = [&] {
    const CloneScope scope;
    return M(module);
  }();
  copy.make_tensors_own();
  return copy;
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
