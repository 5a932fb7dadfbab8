// The pointwise functions, each written once for every backend, and the lists of them that kernels, ops, tests and
// benchmarks iterate. A new one is a struct here and its name in a list.
#pragma once

#include <type_traits>

#include "anneal/kernels/math.h"
#include "anneal/kernels/typelist.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

/// Which value of a unary function its derivatives are functions of.
enum class Saves { input, output };

// ---- unary functions ----
// y = fwd(x); grad(s) is dy/dx, a function of the saved value s, and grad2(s) is d grad / ds. Each is smooth on the
// open interval (domain_low, domain_high), where tests sample x. C is float or double.

/// What most functions have.
struct OnInput {
  static constexpr Saves saves = Saves::input;
  static constexpr double domain_low = -4, domain_high = 4;
};
struct OnOutput {
  static constexpr Saves saves = Saves::output;
  static constexpr double domain_low = -4, domain_high = 4;
};
/// A function that is constant but for its jumps.
struct Stepwise : OnInput {
  static constexpr double domain_low = 0.05, domain_high = 0.45;
  template <class C>
  ANNEAL_HD static C grad(C) {
    return C(0);
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(0);
  }
};

template <class C>
ANNEAL_HD C logistic(C x) {
  return C(1) / (C(1) + math::exp(-x));
}

struct Neg : OnInput {
  static constexpr const char* name = "neg";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return -x;
  }
  template <class C>
  ANNEAL_HD static C grad(C) {
    return C(-1);
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(0);
  }
};
struct Sign : Stepwise {
  static constexpr const char* name = "sign";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x > C(0) ? C(1) : x < C(0) ? C(-1) : x;
  }
};
struct Abs : OnInput {
  static constexpr const char* name = "abs";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::abs(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return Sign::fwd(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(0);
  }
};
struct Square : OnInput {
  static constexpr const char* name = "square";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x * x;
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return C(2) * x;
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(2);
  }
};
struct Sqrt : OnOutput {
  static constexpr const char* name = "sqrt";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::sqrt(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return C(0.5) / y;
  }
  template <class C>
  ANNEAL_HD static C grad2(C y) {
    return C(-0.5) / (y * y);
  }
};
struct Rsqrt : OnOutput {
  static constexpr const char* name = "rsqrt";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return C(1) / math::sqrt(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return C(-0.5) * y * y * y;
  }
  template <class C>
  ANNEAL_HD static C grad2(C y) {
    return C(-1.5) * y * y;
  }
};
struct Reciprocal : OnOutput {
  static constexpr const char* name = "reciprocal";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return C(1) / x;
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return -y * y;
  }
  template <class C>
  ANNEAL_HD static C grad2(C y) {
    return C(-2) * y;
  }
};
struct Exp : OnOutput {
  static constexpr const char* name = "exp";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::exp(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return y;
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(1);
  }
};
struct Log : OnInput {
  static constexpr const char* name = "log";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::log(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return C(1) / x;
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return C(-1) / (x * x);
  }
};
struct Log1p : OnInput {
  static constexpr const char* name = "log1p";
  static constexpr double domain_low = -0.9;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::log1p(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return C(1) / (C(1) + x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return C(-1) / ((C(1) + x) * (C(1) + x));
  }
};
struct Sin : OnInput {
  static constexpr const char* name = "sin";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::sin(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return math::cos(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return -math::sin(x);
  }
};
struct Cos : OnInput {
  static constexpr const char* name = "cos";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::cos(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return -math::sin(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return -math::cos(x);
  }
};
struct Tanh : OnOutput {
  static constexpr const char* name = "tanh";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::tanh(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return C(1) - y * y;
  }
  template <class C>
  ANNEAL_HD static C grad2(C y) {
    return C(-2) * y;
  }
};
struct Sigmoid : OnOutput {
  static constexpr const char* name = "sigmoid";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return logistic(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return y * (C(1) - y);
  }
  template <class C>
  ANNEAL_HD static C grad2(C y) {
    return C(1) - C(2) * y;
  }
};
struct Relu : OnOutput {
  static constexpr const char* name = "relu";
  static constexpr double domain_low = 0.1;
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x < C(0) ? C(0) : x;
  }
  template <class C>
  ANNEAL_HD static C grad(C y) {
    return y > C(0) ? C(1) : C(0);
  }
  template <class C>
  ANNEAL_HD static C grad2(C) {
    return C(0);
  }
};
/// x Phi(x), where Phi is the normal distribution function.
struct Gelu : OnInput {
  static constexpr const char* name = "gelu";
  template <class C>
  ANNEAL_HD static C distribution(C x) {
    return C(0.5) + C(0.5) * math::erf(x * C(0.70710678118654752));
  }
  template <class C>
  ANNEAL_HD static C density(C x) {
    return C(0.39894228040143268) * math::exp(C(-0.5) * x * x);
  }
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x * distribution(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return distribution(x) + x * density(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return density(x) * (C(2) - x * x);
  }
};
/// The approximation 0.5 x (1 + tanh(u / 2)) = x logistic(u) of Gelu, u = sqrt(8 / pi) (x + 0.044715 x^3).
struct GeluTanh : OnInput {
  static constexpr const char* name = "gelu_tanh";
  static constexpr double scale = 1.5957691216057308, cubic = 0.044715;
  template <class C>
  ANNEAL_HD static C gate(C x) {
    return logistic(C(scale) * x * (C(1) + C(cubic) * x * x));
  }
  template <class C>
  ANNEAL_HD static C du(C x) {
    return C(scale) * (C(1) + C(3 * cubic) * x * x);
  }
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x * gate(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    const C s = gate(x);
    return s + x * s * (C(1) - s) * du(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    const C s = gate(x);
    const C d = du(x);
    return s * (C(1) - s) * (C(2) * d + x * ((C(1) - C(2) * s) * d * d + C(6 * scale * cubic) * x));
  }
};
struct Silu : OnInput {
  static constexpr const char* name = "silu";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x * logistic(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    const C s = logistic(x);
    return s + x * s * (C(1) - s);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    const C s = logistic(x);
    return s * (C(1) - s) * (C(2) + x * (C(1) - C(2) * s));
  }
};
/// log(1 + exp(x)), which is x from 20 on.
struct Softplus : OnInput {
  static constexpr const char* name = "softplus";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return x > C(20) ? x : math::log1p(math::exp(x));
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return x > C(20) ? C(1) : logistic(x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    const C s = grad(x);
    return s * (C(1) - s);
  }
};
struct LogSigmoid : OnInput {
  static constexpr const char* name = "log_sigmoid";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return (x > C(0) ? C(0) : x) - math::log1p(math::exp(-math::abs(x)));
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return logistic(-x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return -logistic(x) * logistic(-x);
  }
};
struct Erf : OnInput {
  static constexpr const char* name = "erf";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::erf(x);
  }
  template <class C>
  ANNEAL_HD static C grad(C x) {
    return C(1.1283791670955126) * math::exp(-x * x);
  }
  template <class C>
  ANNEAL_HD static C grad2(C x) {
    return C(-2) * x * grad(x);
  }
};
struct Floor : Stepwise {
  static constexpr const char* name = "floor";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::floor(x);
  }
};
struct Ceil : Stepwise {
  static constexpr const char* name = "ceil";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::ceil(x);
  }
};
/// Ties to even.
struct Round : Stepwise {
  static constexpr const char* name = "round";
  template <class C>
  ANNEAL_HD static C fwd(C x) {
    return math::round(x);
  }
};

using UnaryOps = TypeList<Neg, Sign, Abs, Square, Sqrt, Rsqrt, Reciprocal, Exp, Log, Log1p, Sin, Cos, Tanh, Sigmoid,
                          Relu, Gelu, GeluTanh, Silu, Softplus, LogSigmoid, Erf, Floor, Ceil, Round>;
template <class Op>
inline constexpr int unary_id = index_of<Op>(UnaryOps{});

// ---- binary functions: C is float, double or an integer type; bool adds by or, multiplies by and ----

/// Where integers of type C are computed with: they wrap around.
template <class C>
struct WrappingType {
  using type = C;
};
template <>
struct WrappingType<std::int32_t> {
  using type = std::uint32_t;
};
template <>
struct WrappingType<std::int64_t> {
  using type = std::uint64_t;
};
template <class C>
using Wrapping = typename WrappingType<C>::type;

struct Add {
  static constexpr const char* name = "add";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    return static_cast<C>(Wrapping<C>(a) + Wrapping<C>(b));
  }
};
struct Sub {
  static constexpr const char* name = "sub";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    return static_cast<C>(Wrapping<C>(a) - Wrapping<C>(b));
  }
};
struct Mul {
  static constexpr const char* name = "mul";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    return static_cast<C>(Wrapping<C>(a) * Wrapping<C>(b));
  }
};
/// Integers truncate towards zero, and by zero give zero.
struct Div {
  static constexpr const char* name = "div";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    if constexpr (std::is_floating_point_v<C>) return a / b;
    else if (b == C(0)) return C(0);
    else if constexpr (std::is_signed_v<C>) return b == C(-1) ? Sub::fwd(C(0), a) : a / b;
    else return static_cast<C>(a / b);
  }
};
/// Integers to a negative power truncate too: only 1 and -1 have one that is not zero.
struct Pow {
  static constexpr const char* name = "pow";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    if constexpr (std::is_floating_point_v<C>) {
      return math::pow(a, b);
    } else {
      if constexpr (std::is_signed_v<C>) {
        if (b < C(0)) return a == C(1) ? C(1) : a == C(-1) ? (b & 1 ? C(-1) : C(1)) : C(0);
      }
      C y = C(1);
      for (auto exponent = static_cast<std::uint64_t>(b); exponent != 0; exponent >>= 1) {
        if (exponent & 1) y = Mul::fwd(y, a);
        a = Mul::fwd(a, a);
      }
      return y;
    }
  }
};
/// NaN if either is.
struct Maximum {
  static constexpr const char* name = "maximum";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    return ((a > b) | math::is_nan(a)) ? a : b;
  }
};
/// NaN if either is.
struct Minimum {
  static constexpr const char* name = "minimum";
  template <class C>
  ANNEAL_HD static C fwd(C a, C b) {
    return ((a < b) | math::is_nan(a)) ? a : b;
  }
};

using BinaryOps = TypeList<Add, Sub, Mul, Div, Pow, Maximum, Minimum>;
template <class Op>
inline constexpr int binary_id = index_of<Op>(BinaryOps{});

// ---- comparisons ----

struct Eq {
  static constexpr const char* name = "eq";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a == b;
  }
};
struct Ne {
  static constexpr const char* name = "ne";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a != b;
  }
};
struct Lt {
  static constexpr const char* name = "lt";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a < b;
  }
};
struct Le {
  static constexpr const char* name = "le";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a <= b;
  }
};
struct Gt {
  static constexpr const char* name = "gt";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a > b;
  }
};
struct Ge {
  static constexpr const char* name = "ge";
  template <class C>
  ANNEAL_HD static bool fwd(C a, C b) {
    return a >= b;
  }
};

using CompareOps = TypeList<Eq, Ne, Lt, Le, Gt, Ge>;
template <class Op>
inline constexpr int compare_id = index_of<Op>(CompareOps{});

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
