// Pointwise ops: one input from the functor list, two inputs with broadcasting, comparisons, where.
#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

// ---- one input ----

template <class Op>
struct UnaryGradRule {
  static constexpr const char* name = Op::name;
  static void backward(const Tensor& g, Gradients& dx, const Tensor& dy, const Tensor& saved) {
    if (dx.wants(0)) dx.set(0, unary_grad<Op>(g, saved));
    if (!dx.wants(1)) return;
    check(!grad_enabled(), "{}: cannot be differentiated more than twice", name);
    const Tensor out = empty_like(saved);
    launch(g.device(),
           kernels::UnaryGradGrad{kernels::unary_id<Op>, g.dtype(), space_of(out.shape(), g, dy, saved, out), g.raw(),
                                  dy.raw(), saved.raw(), out.raw()});
    dx.set(1, out);
  }
};
template <class Op>
struct UnaryRule {
  static constexpr const char* name = Op::name;
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& saved) { dx.set(0, unary_grad<Op>(dy, saved)); }
};

// ---- two inputs ----

Shape check_pair(const Tensor& a, const Tensor& b, const char* op) {
  check(a.dtype() == b.dtype(), "{}: expected operands of one dtype, got {} and {}; convert one with to()", op,
        name_of(a.dtype()), name_of(b.dtype()));
  check_devices(op, a, b);
  return broadcast(a.shape(), b.shape(), op);
}

// The result takes the strides of the operand that has its shape.
Tensor empty_for(const Tensor& a, const Tensor& b, const Shape& shape, DType dtype) {
  if (a.shape() == shape) return empty_like(a, dtype);
  if (b.shape() == shape) return empty_like(b, dtype);
  return empty(shape, {.dtype = dtype, .device = a.device()});
}

template <class Op>
Tensor binary(const Tensor& a, const Tensor& b) {
  const Shape shape = check_pair(a, b, Op::name);
  const Tensor y = empty_for(a, b, shape, a.dtype());
  launch(a.device(),
         kernels::Binary{kernels::binary_id<Op>, a.dtype(), space_of(shape, a, b, y), a.raw(), b.raw(), y.raw()});
  return y;
}

struct AddRule {
  static constexpr const char* name = "add";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& a, const Shape& b) {
    if (dx.wants(0)) dx.set(0, sum_to(dy, a));
    if (dx.wants(1)) dx.set(1, sum_to(dy, b));
  }
};
struct SubRule {
  static constexpr const char* name = "sub";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& a, const Shape& b) {
    if (dx.wants(0)) dx.set(0, sum_to(dy, a));
    if (dx.wants(1)) dx.set(1, sum_to(-dy, b));
  }
};
struct MulRule {
  static constexpr const char* name = "mul";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
    if (dx.wants(0)) dx.set(0, sum_to(dy * b, a.shape()));
    if (dx.wants(1)) dx.set(1, sum_to(dy * a, b.shape()));
  }
};
struct DivRule {
  static constexpr const char* name = "div";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
    const Tensor da = dy / b;
    if (dx.wants(0)) dx.set(0, sum_to(da, a.shape()));
    if (dx.wants(1)) dx.set(1, sum_to(-(da * (a / b)), b.shape()));
  }
};
struct PowRule {
  static constexpr const char* name = "pow";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
    // 0^0 is constant in a, and 0^b in b: the terms that would be 0 * infinity or 0 * log 0 are 0.
    if (dx.wants(0)) {
      const Tensor zero = scalar(0, {.dtype = b.dtype(), .device = b.device()});
      const Tensor slope = where(eq(b, zero), zero, b * pow(a, b - 1));
      dx.set(0, sum_to(dy * slope, a.shape()));
    }
    if (dx.wants(1)) {
      const Tensor zero = scalar(0, {.dtype = a.dtype(), .device = a.device()});
      const Tensor slope = where(eq(a, zero), zero, pow(a, b) * log(a));
      dx.set(1, sum_to(dy * slope, b.shape()));
    }
  }
};
template <bool Largest>
struct ExtremumRule {
  static constexpr const char* name = Largest ? "maximum" : "minimum";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
    const Tensor a_wins = Largest ? gt(a, b) : lt(a, b);
    const Tensor half = eq(a, b).to(dy.dtype()) * 0.5;
    const Tensor share = a_wins.to(dy.dtype()) + half;
    if (dx.wants(0)) dx.set(0, sum_to(dy * share, a.shape()));
    if (dx.wants(1)) dx.set(1, sum_to(dy * (1 - share), b.shape()));
  }
};

struct WhereRule {
  static constexpr const char* name = "where";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& condition, const Shape& a, const Shape& b) {
    const Tensor zero = scalar(0, {.dtype = dy.dtype(), .device = dy.device()});
    if (dx.wants(0)) dx.set(0, sum_to(where(condition, dy, zero), a));
    if (dx.wants(1)) dx.set(1, sum_to(where(condition, zero, dy), b));
  }
};

// The op of operands that differ in dtype.
template <CastPolicy policy, class F>
Tensor with_widest(const F& op, const Tensor& a, const Tensor& b, const char* name) {
  const CastPair pair = autocast_pair(policy, a, b, name);
  return op(pair.a, pair.b);
}

Tensor like(const Tensor& x, double value) { return scalar(value, {.dtype = x.dtype(), .device = x.device()}); }

}  // namespace

template <class Op>
Tensor unary_grad(const Tensor& dy, const Tensor& saved) {
  const Tensor dx = empty_like(saved);
  launch(dy.device(), kernels::UnaryGrad{kernels::unary_id<Op>, dy.dtype(), space_of(dx.shape(), dy, saved, dx),
                                         dy.raw(), saved.raw(), dx.raw()});
  return record<UnaryGradRule<Op>>(dx, {dy, saved}, dy, saved);
}
template Tensor unary_grad<kernels::Relu>(const Tensor&, const Tensor&);
template Tensor unary_grad<kernels::Gelu>(const Tensor&, const Tensor&);
template <class Op>
Tensor unary(const Tensor& x) {
  check(is_floating(x.dtype()), "{}: expected a floating dtype, got {}", Op::name, name_of(x.dtype()));
  if constexpr (constexpr auto policy = find_policy(Op::name); policy.has_value())
    if (const Tensor cast = autocast(*policy, x); cast.defined()) return unary<Op>(cast);
  const Tensor y = empty_like(x);
  launch(x.device(), kernels::Unary{kernels::unary_id<Op>, x.dtype(), space_of(x.shape(), x, y), x.raw(), y.raw()});
  return record<UnaryRule<Op>>(y, {x}, Op::saves == kernels::Saves::input ? x : y);
}
template <class Op>
Tensor compare(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("compare")>(compare<Op>, a, b, Op::name);
  const Shape shape = check_pair(a, b, Op::name);
  const Tensor y = empty_for(a, b, shape, DType::boolean);
  launch(a.device(),
         kernels::Compare{kernels::compare_id<Op>, a.dtype(), space_of(shape, a, b, y), a.raw(), b.raw(), y.raw()});
  return y;
}
// Naming every op of the lists is what compiles them.
[[gnu::used]] static const auto all_unary = []<class... Op>(TypeList<Op...>) {
  return std::tuple{&unary<Op>...};
}(kernels::UnaryOps{});
[[gnu::used]] static const auto all_compare = []<class... Op>(TypeList<Op...>) {
  return std::tuple{&compare<Op>...};
}(kernels::CompareOps{});

Tensor add(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("add")>(add, a, b, "add");
  return record<AddRule>(binary<kernels::Add>(a, b), {a, b}, a.shape(), b.shape());
}
Tensor sub(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("sub")>(sub, a, b, "sub");
  return record<SubRule>(binary<kernels::Sub>(a, b), {a, b}, a.shape(), b.shape());
}
Tensor mul(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("mul")>(mul, a, b, "mul");
  return record<MulRule>(binary<kernels::Mul>(a, b), {a, b}, a, b);
}
Tensor div(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("div")>(div, a, b, "div");
  return record<DivRule>(binary<kernels::Div>(a, b), {a, b}, a, b);
}
Tensor pow(const Tensor& a, const Tensor& b) {
  const Tensor base = autocast(policy_of("pow"), a), exponent = autocast(policy_of("pow"), b);
  if (base.defined() || exponent.defined()) return pow(base.defined() ? base : a, exponent.defined() ? exponent : b);
  return record<PowRule>(binary<kernels::Pow>(a, b), {a, b}, a, b);
}
Tensor maximum(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("maximum")>(maximum, a, b, "maximum");
  return record<ExtremumRule<true>>(binary<kernels::Maximum>(a, b), {a, b}, a, b);
}
Tensor minimum(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return with_widest<policy_of("minimum")>(minimum, a, b, "minimum");
  return record<ExtremumRule<false>>(binary<kernels::Minimum>(a, b), {a, b}, a, b);
}

Tensor operator+(const Tensor& x, double s) { return add(x, like(x, s)); }
Tensor operator-(const Tensor& x, double s) { return sub(x, like(x, s)); }
Tensor operator*(const Tensor& x, double s) { return mul(x, like(x, s)); }
Tensor operator/(const Tensor& x, double s) { return div(x, like(x, s)); }
Tensor operator+(double s, const Tensor& x) { return add(like(x, s), x); }
Tensor operator-(double s, const Tensor& x) { return sub(like(x, s), x); }
Tensor operator*(double s, const Tensor& x) { return mul(like(x, s), x); }
Tensor operator/(double s, const Tensor& x) { return div(like(x, s), x); }
Tensor pow(const Tensor& x, double exponent) { return pow(x, like(x, exponent)); }

Tensor clamp(const Tensor& x, double low, double high) {
  check(low <= high, "clamp: low {} is above high {}", low, high);
  const Tensor bottom = like(x, low);
  const Tensor top = like(x, high);
  return where(le(x, bottom), bottom, where(ge(x, top), top, x));
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check(condition.dtype() == DType::boolean, "where: expected a bool condition, got {}", name_of(condition.dtype()));
  if (a.dtype() != b.dtype()) {
    const auto chosen = [&](const Tensor& x, const Tensor& y) { return where(condition, x, y); };
    return with_widest<policy_of("where")>(chosen, a, b, "where");
  }
  const Shape shape = broadcast(condition.shape(), check_pair(a, b, "where"), "where");
  check_devices("where", a, condition);
  const Tensor y = empty_for(a, b, shape, a.dtype());
  launch(a.device(),
         kernels::Where{a.dtype(), space_of(shape, condition, a, b, y), condition.raw(), a.raw(), b.raw(), y.raw()});
  return record<WhereRule>(y, {a, b}, condition, a.shape(), b.shape());
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) { return where(mask, like(x, value), x); }

}  // namespace v0
}  // namespace anneal
