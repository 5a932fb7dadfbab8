#include "anneal/nn/module.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <typeinfo>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/core/type_name.h"

namespace anneal {
inline namespace v0 {
namespace nn {
namespace {

// Modules that no parent knows, by address: whole models, layers on their way into a Sequential, and forgotten members.
class Strays {
 public:
  void add(const Module* module) {
    const std::lock_guard lock(mutex_);
    modules_.insert(module);
  }
  void remove(const Module* module) {
    const std::lock_guard lock(mutex_);
    modules_.erase(module);
  }
  // The first one that begins after `root` and within `bytes` of it.
  const Module* within(const Module* root, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto next = modules_.upper_bound(root);
    const auto end = reinterpret_cast<const char*>(root) + bytes;
    return next != modules_.end() && reinterpret_cast<const char*>(*next) < end ? *next : nullptr;
  }

 private:
  std::mutex mutex_;
  std::set<const Module*> modules_;
};
Strays& strays() {
  static Strays& instance = *new Strays;  // outlives static models
  return instance;
}

thread_local int cloning = 0;

template <class T>
std::ptrdiff_t offset_in(const Module* parent, const T* member) {
  return reinterpret_cast<const char*>(member) - reinterpret_cast<const char*>(parent);
}

}  // namespace

CloneScope::CloneScope() { ++cloning; }
CloneScope::~CloneScope() { --cloning; }
bool CloneScope::active() { return cloning > 0; }

// ---- members ----

Parameter::Parameter(Slot at, Tensor value) : Tensor(std::move(value)) {
  if (!defined()) return;
  if (is_floating(dtype())) set_requires_grad();
  if (at.parent) at.parent->register_tensor(at.name, *this, true);
}
Parameter& Parameter::operator=(const Tensor& value) {
  Tensor::operator=(value);
  if (defined() && is_leaf() && is_floating(dtype())) set_requires_grad();
  return *this;
}
Buffer::Buffer(Slot at, Tensor value) : Tensor(std::move(value)) {
  if (defined() && at.parent) at.parent->register_tensor(at.name, *this, false);
}

Module::Module(Slot at) : has_parent_(at.parent != nullptr) {
  if (!at.parent) {
    strays().add(this);
    return;
  }
  at.parent->check_new_name(at.name);
  at.parent->children_.push_back({std::string(at.name), offset_in(at.parent, this)});
}

Module::Module(const Module& other) : own_(other.own_), training_(other.training_), has_parent_(other.has_parent_) {
  check(CloneScope::active(), "{}: a module is moved or cloned, not copied; use nn::clone(model)", other.type_name());
  // Adopted children are the copying class's to copy and adopt.
  for (const Child& child : other.children_)
    if (!child.adopted) children_.push_back(child);
  if (!has_parent_) strays().add(this);
}

Module::Module(Module&& other) noexcept
    : children_(std::move(other.children_)),
      own_(std::move(other.own_)),
      training_(other.training_),
      has_parent_(other.has_parent_) {
  if (!has_parent_) strays().add(this);
}
Module& Module::operator=(Module&& other) noexcept {
  children_ = std::move(other.children_);
  own_ = std::move(other.own_);
  training_ = other.training_;
  return *this;
}
Module::~Module() {
  if (!has_parent_) strays().remove(this);
}

void Module::adopt(std::string name, Module& child) {
  check_new_name(name);
  if (!std::exchange(child.has_parent_, true)) strays().remove(&child);
  children_.push_back({std::move(name), 0, &child});
}

void Module::register_tensor(std::string_view name, const Tensor& tensor, bool trained) {
  check_new_name(name);
  own_.push_back({std::string(name), offset_in(this, &tensor), trained});
}

void Module::check_new_name(std::string_view name) const {
  check(!name.empty() && name.find('.') == std::string_view::npos,
        "a member's name must not be empty or have a dot, got '{}'", name);
  const auto taken = [name](const auto& entry) { return entry.name == name; };
  check(std::none_of(children_.begin(), children_.end(), taken) && std::none_of(own_.begin(), own_.end(), taken),
        "two members are named '{}'", name);
}

Module& Module::at(const Child& child) const {
  if (child.adopted) return *child.adopted;
  return *reinterpret_cast<Module*>(reinterpret_cast<char*>(const_cast<Module*>(this)) + child.offset);
}
Tensor& Module::at(const Own& own) const {
  return *reinterpret_cast<Tensor*>(reinterpret_cast<char*>(const_cast<Module*>(this)) + own.offset);
}

void check_registered(const Module& root, std::size_t bytes) {
  if (const Module* stray = strays().within(&root, bytes))
    throw Error(
        format("a {} at offset {} of the {} was built without a slot and would not be trained; write it as "
               "`layer{{this, \"name\"}, ...}`",
               stray->type_name(), offset_in(&root, stray), root.type_name()));
}

// ---- what is inside ----

Tensor Module::forward(const Tensor&) const {
  throw Error(format("{}: forward(Tensor) is not defined; the module is called in another way", type_name()));
}

void Module::visit(const std::string& prefix, const std::function<void(const std::string&, Tensor&, bool)>& f) const {
  for (const Own& own : own_) f(prefix + own.name, at(own), own.trained);
  for (const Child& child : children_) at(child).visit(prefix + child.name + ".", f);
}

void Module::visit_once(const std::function<void(const std::string&, Tensor&, bool)>& f) const {
  std::set<const TensorImpl*> seen;
  visit("", [&](const std::string& name, Tensor& tensor, bool trained) {
    if (tensor.defined() && seen.insert(&tensor.impl()).second) f(name, tensor, trained);
  });
}

std::vector<NamedTensor> Module::parameters() const {
  std::vector<NamedTensor> list;
  visit_once([&](const std::string& name, Tensor& tensor, bool trained) {
    if (trained) list.push_back({name, tensor});
  });
  return list;
}
std::vector<NamedTensor> Module::buffers() const {
  std::vector<NamedTensor> list;
  visit_once([&](const std::string& name, Tensor& tensor, bool trained) {
    if (!trained) list.push_back({name, tensor});
  });
  return list;
}

StateDict Module::state_dict() const {
  StateDict state;
  visit("", [&](const std::string& name, Tensor& tensor, bool) {
    if (tensor.defined()) state.push_back({name, tensor.detach()});
  });
  return state;
}

void Module::load_state_dict(std::span<const NamedTensor> state, bool strict) {
  std::map<std::string, Tensor> own;
  for (const NamedTensor& entry : state_dict()) own.emplace(entry.name, entry.tensor);
  std::string problems;
  const auto report = [&](const std::string& text) { problems += "\n  " + text; };
  std::map<std::string, Tensor> found;
  for (const NamedTensor& entry : state) {
    const auto it = own.find(entry.name);
    if (it == own.end()) {
      if (strict) report("unexpected: " + entry.name);
    } else if (entry.tensor.shape() != it->second.shape()) {
      report(format("wrong shape: {} is {}, the model's is {}", entry.name, entry.tensor.shape(), it->second.shape()));
    } else {
      found.emplace(entry.name, entry.tensor);
    }
  }
  for (const auto& [name, tensor] : own)
    if (strict && !found.contains(name)) report("missing: " + name);
  check(problems.empty(), "load_state_dict: the state does not fit the {}:{}", type_name(), problems);
  for (const auto& [name, tensor] : found) own.at(name).copy_(tensor.detach());
}

void Module::train(bool on) {
  training_ = on;
  for (const Child& child : children_) at(child).train(on);
}

void Module::convert(const std::function<Tensor(const Tensor&)>& convert) const {
  const NoGrad no_grad;
  visit_once([&](const std::string&, Tensor& tensor, bool) {
    const Tensor converted = convert(tensor);
    TensorImpl& impl = tensor.impl();
    if (converted.same(tensor)) return;
    impl.storage = converted.impl().storage;
    impl.offset = converted.impl().offset;
    impl.strides = converted.strides();
    impl.dtype = converted.dtype();
    if (Leaf* leaf = leaf_of(tensor)) {
      leaf->slot = {};
      tensor.zero_grad();
    }
  });
}
void Module::to(DType dtype) {
  check(is_floating(dtype), "to: expected a floating dtype, got {}", name_of(dtype));
  convert([dtype](const Tensor& x) { return is_floating(x.dtype()) ? x.to(dtype) : x; });
}
void Module::to(Device device) {
  convert([device](const Tensor& x) { return x.to(device); });
}

void Module::set_requires_grad(bool on) {
  visit_once([on](const std::string&, Tensor& tensor, bool trained) {
    if (trained && is_floating(tensor.dtype())) tensor.set_requires_grad(on);
  });
}
void Module::zero_grad() const {
  visit_once([](const std::string&, Tensor& tensor, bool) { tensor.zero_grad(); });
}
std::int64_t Module::numel() const {
  std::int64_t n = 0;
  for (const NamedTensor& parameter : parameters()) n += parameter.tensor.numel();
  return n;
}

void Module::make_tensors_own() {
  std::map<const TensorImpl*, Tensor> copies;
  visit("", [&](const std::string&, Tensor& tensor, bool) {
    if (!tensor.defined()) return;
    Tensor& copy = copies[&tensor.impl()];
    if (!copy.defined()) {
      copy = tensor.detach().clone();
      if (tensor.requires_grad()) copy.set_requires_grad();
    }
    tensor = copy;
  });
}

std::string Module::type_name() const { return short_name(typeid(*this)); }

}  // namespace nn
}  // namespace v0
}  // namespace anneal
