// Knows which layer runs, for errors that name it. Private.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {

class LayerTrace final : public nn::ModuleObserver {
 public:
  explicit LayerTrace(const nn::Module& root) : root_(root) {}
  void enter(const nn::Module& module, const Tensor&) override { open_.push_back(&module); }
  void leave(const nn::Module& module, const Tensor&) override {
    while (open_.back() != &module) open_.pop_back();  // calls that threw
    open_.pop_back();
  }

  /// The innermost layer whose call has not ended: "layer net.1 (Linear), ". Empty if there is none, as in backward.
  std::string where() const {
    if (open_.empty()) return {};
    const std::string name = name_in(root_, *open_.back(), "").value_or("");
    return "layer " + (name.empty() ? "" : name + " ") + "(" + open_.back()->type_name() + "), ";
  }

 private:
  static std::optional<std::string> name_in(const nn::Module& root, const nn::Module& layer, const std::string& name) {
    if (&root == &layer) return name;
    std::optional<std::string> found;
    root.for_each_child([&](const std::string& own, const nn::Module& child) {
      if (!found) found = name_in(child, layer, name.empty() ? own : name + "." + own);
    });
    return found;
  }

  const nn::Module& root_;
  std::vector<const nn::Module*> open_;
};

}  // namespace v0
}  // namespace anneal
