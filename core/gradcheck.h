// A check of gradients by finite differences, for the library's ops and for the user's own.
#pragma once

#include <functional>
#include <string>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

struct GradcheckOptions {
  double step = 1e-6;
  double rtol = 1e-5;
  double atol = 1e-7;
  bool twice = false;  ///< also check the gradient of the gradient
};
struct GradcheckReport {
  bool ok = true;
  double worst = 0;   ///< the largest difference
  std::string where;  ///< what failed first: input, element, both values
};

/// Compares the gradients of `f` with central differences at `inputs`, in f64 (others are an Error), for every input
/// that requires gradients. Beyond the values it demands that results do not depend on the strides of the inputs, that
/// a second backward doubles what the first collected, and that nothing is read from uninitialised gradients (they are
/// poisoned with NaN). `f` must give the same result each time.
GradcheckReport gradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::span<const Tensor> inputs,
                          GradcheckOptions options = {});
GradcheckReport gradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::initializer_list<Tensor> inputs,
                          GradcheckOptions options = {});

}  // namespace v0
}  // namespace anneal
