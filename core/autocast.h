// Mixed precision: which ops compute in 16 bits, and the 16-bit copies of weights that they read.
#pragma once

#include <optional>
#include <string_view>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// The 16-bit type that the calling thread's ops are cast to; none outside of an Autocast.
std::optional<DType> autocast_dtype();
/// While it lives, ops follow the table below with f16 or bf16 (none: off). f64 operands stay as they are.
class Autocast {
 public:
  explicit Autocast(std::optional<DType> dtype);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  std::optional<DType> before_;
};

/// What Autocast does to an op's floating operands. `low`: to the 16-bit type, but for weights, whose 16-bit copies are
/// read while their gradients stay f32; `full`: 16-bit ones to f32; `widest`: 16-bit ones to f32 if another is f32. Ops
/// that are not in the table take their operands as they come.
enum class CastPolicy { low, full, widest };
struct CastRule {
  std::string_view op;
  CastPolicy policy;
};
/// What needs the speed goes to 16 bits; what sums many terms, or leaves the range of f16, to f32.
inline constexpr CastRule autocast_table[] = {
    {"linear", CastPolicy::low},       {"matmul", CastPolicy::low},
    {"conv2d", CastPolicy::low},       {"scaled_dot_product_attention", CastPolicy::low},

    {"softmax", CastPolicy::full},     {"log_softmax", CastPolicy::full},
    {"nll_loss", CastPolicy::full},    {"mse_loss", CastPolicy::full},
    {"l1_loss", CastPolicy::full},     {"binary_cross_entropy_with_logits", CastPolicy::full},
    {"layer_norm", CastPolicy::full},  {"rms_norm", CastPolicy::full},
    {"sum", CastPolicy::full},         {"mean", CastPolicy::full},
    {"prod", CastPolicy::full},        {"var", CastPolicy::full},
    {"exp", CastPolicy::full},         {"log", CastPolicy::full},
    {"log1p", CastPolicy::full},       {"rsqrt", CastPolicy::full},
    {"reciprocal", CastPolicy::full},  {"softplus", CastPolicy::full},
    {"log_sigmoid", CastPolicy::full}, {"pow", CastPolicy::full},

    {"add", CastPolicy::widest},       {"sub", CastPolicy::widest},
    {"mul", CastPolicy::widest},       {"div", CastPolicy::widest},
    {"maximum", CastPolicy::widest},   {"minimum", CastPolicy::widest},
    {"compare", CastPolicy::widest},   {"where", CastPolicy::widest},
    {"cat", CastPolicy::widest},       {"stack", CastPolicy::widest},
};

// ---- for ops ----

/// The table's entry for an op, if it has one.
consteval std::optional<CastPolicy> find_policy(std::string_view op) {
  for (const CastRule& rule : autocast_table)
    if (rule.op == op) return rule.policy;
  return std::nullopt;
}
consteval CastPolicy policy_of(std::string_view op) { return find_policy(op).value(); }

/// The operand as the policy wants it, differentiably; undefined if there is nothing to do.
Tensor autocast(CastPolicy policy, const Tensor& x);
/// Operands of different dtypes as the policy `widest` wants them. Throws Error, with the op's name, where that makes
/// them no more equal, and outside of Autocast.
struct CastPair {
  Tensor a, b;
};
CastPair autocast_pair(CastPolicy policy, const Tensor& a, const Tensor& b, const char* op);

/// The dtype that a reduction of the policy `full` sums such numbers to.
DType autocast_sum(DType dtype);

/// Throws Error, with the op's name, unless the weight has the dtype of x, or is f32 and Autocast has cast x.
void check_weight(const Tensor& x, const Tensor& weight, const char* op);
/// A weight's values in the dtype of x, outside the graph: itself, or if x has 16 bits its twin, which a leaf keeps for
/// the next time, until it is changed. Thread-safe.
Tensor weight_like(const Tensor& x, const Tensor& weight);
/// The memory that a parameter's 16-bit twin is to live in from now on: of its shape and dense, the values not yet
/// made.
void set_twin(const Tensor& parameter, const Tensor& twin);
/// Whether it has a twin made from its present values.
bool has_fresh_twin(const Tensor& parameter);
/// Says that the twin has just been written from the parameter's present values.
void mark_twin_fresh(const Tensor& parameter);

}  // namespace v0
}  // namespace anneal
