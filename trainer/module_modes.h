// Remembers which modules train. Private.
#pragma once

#include <cstddef>
#include <vector>

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {

/// Each module's own mode, in the order of a walk through the tree; put back when it goes.
class ModuleModes {
 public:
  explicit ModuleModes(nn::Module& root) : root_(root) { read(root); }
  ~ModuleModes() {
    std::size_t next = 0;
    write(root_, next);
  }
  ModuleModes(const ModuleModes&) = delete;
  ModuleModes& operator=(const ModuleModes&) = delete;

 private:
  void read(const nn::Module& module) {
    modes_.push_back(module.training());
    module.for_each_child([&](const std::string&, const nn::Module& child) { read(child); });
  }
  void write(nn::Module& module, std::size_t& next) {
    module.train(modes_[next++]);
    module.for_each_child([&](const std::string&, nn::Module& child) { write(child, next); });
  }

  nn::Module& root_;
  std::vector<bool> modes_;
};

}  // namespace v0
}  // namespace anneal
