// Every kernel of kernels.h with operands of many sizes.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/cuda/maker.h"

namespace anneal::gpu_check {

/// A kernel with its operands bound, for both sides.
struct Call {
  std::function<void()> on_cpu;
  std::function<void(kernels::Stream)> on_gpu;
};

struct Case {
  int kernel;  // its position in kernels::Kernels
  std::string group;
  std::string name;
  std::vector<DType> dtypes;
  std::function<Call(Maker&)> make;
  double tolerance = 1;     // times the dtype's own
  bool same_dtype = false;  // the reference is computed in the dtype under test
  bool timed = false;       // has a Size::bench
};

class Cases {
 public:
  std::vector<Case> list;
  std::string group;  // of what is added next

  /// `make(maker)` returns the kernel's arguments.
  template <class Make>
  Case& add(std::string name, const Make& make) {
    using Args = decltype(make(std::declval<Maker&>()));
    list.push_back(
        {.kernel = index_of<Args>(kernels::Kernels{}),
         .group = group,
         .name = std::move(name),
         .dtypes = {DType::f32, DType::f16, DType::bf16, DType::f64},
         .make = [make](Maker& m) {
           const Args args = make(m);
           return Call{[args] { kernels::cpu::run(args); }, [args](kernels::Stream stream) { gpu::run(args, stream); }};
         }});
    return list.back();
  }
};
void add_pointwise(Cases& all);
void add_random(Cases& all);
void add_reductions(Cases& all);
void add_products(Cases& all);
void add_convolutions(Cases& all);
void add_pooling(Cases& all);
void add_rowwise(Cases& all);
void add_norms(Cases& all);
void add_attention(Cases& all);
void add_indexing(Cases& all);
void add_optimizers(Cases& all);

/// All of them. Throws std::logic_error if a kernel has none.
const std::vector<Case>& cases();

inline constexpr Kind element{Kind::element}, wide{Kind::wide};

inline std::int64_t rows_of(const Maker& m) { return m.pick(3, 17, 64, 1000, 16384); }
inline std::int64_t cols_of(const Maker& m) { return m.pick(5, 131, 256, 4099, 4096); }
inline std::int64_t count_of(const Maker& m) { return rows_of(m) * cols_of(m); }

}  // namespace anneal::gpu_check
