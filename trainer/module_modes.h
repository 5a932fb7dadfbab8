// Remembers which modules train. Private.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {

/// How many modules of the tree are in eval mode.
inline std::int64_t count_in_eval(const nn::Module& root) {
  std::int64_t count = root.training() ? 0 : 1;
  root.for_each_child([&](const std::string&, const nn::Module& child) { count += count_in_eval(child); });
  return count;
}

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
