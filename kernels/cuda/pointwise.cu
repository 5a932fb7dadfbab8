// Functions of each element. Those of the list `Fast` have a kernel of their own for each type that training happens
// in, which reads operands in vectors where it can; all else is one kernel a type, which looks the function up.
#include <type_traits>

#include "anneal/kernels/cuda/map.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// What is computed for an element, given the function.
struct Forward {
  template <class Op, class... C>
  ANNEAL_DEVICE static auto of(C... x) {
    return Op::fwd(x...);
  }
};
struct Backward {
  template <class Op, class C>
  ANNEAL_DEVICE static C of(C dy, C saved) {
    return dy * Op::grad(saved);
  }
};
struct SecondBackward {
  template <class Op, class C>
  ANNEAL_DEVICE static C of(C g, C dy, C saved) {
    return g * dy * Op::grad2(saved);
  }
};

/// A function known when this is compiled.
template <class Way, class Op>
struct Known {
  template <class... C>
  ANNEAL_DEVICE auto operator()(C... x) const {
    return Way::template of<Op>(x...);
  }
};
/// Any function of a list.
template <class Way, class Ops>
struct Any {
  int op;
  template <class First, class... C>
  ANNEAL_DEVICE auto operator()(First first, C... x) const {
    decltype(Way::template of<typename Head<Ops>::type>(first, x...)) y{};
    for_op(Ops{}, op, [&]<class Op> { y = Way::template of<Op>(first, x...); });
    return y;
  }

 private:
  template <class List>
  struct Head;
  template <class Op, class... Rest>
  struct Head<TypeList<Op, Rest...>> {
    using type = Op;
  };
};

using Fast = TypeList<Neg, Square, Exp, Tanh, Sigmoid, Relu, Gelu, GeluTanh, Silu, Add, Sub, Mul, Div>;
using FastTypes = TypeList<float, f16, bf16>;

template <class T, class... Ts>
constexpr bool contains(TypeList<Ts...>) {
  return (std::is_same_v<T, Ts> || ...);
}

/// y = the op of this number of x..., which have type T.
template <class Way, class Ops, class T, class Y, class... Pointers, int Operands>
void map_op(Stream stream, int op, const Space<Operands>& space, void* y, Pointers... x) {
  const Any<Way, Ops> any{op};
  bool done = false;
  if constexpr (contains<T>(FastTypes{}) && std::is_same_v<T, Y> && Operands < 4) {
    for_op(Ops{}, op, [&]<class Op> {
      if constexpr (contains<Op>(Fast{})) {
        map<true>(stream, space, Known<Way, Op>{}, any, static_cast<Y*>(y), static_cast<const T*>(x)...);
        done = true;
      }
    });
  }
  if (!done) map<false>(stream, space, any, any, static_cast<Y*>(y), static_cast<const T*>(x)...);
}

}  // namespace

template <>
void run(const Unary& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> { map_op<Forward, UnaryOps, T, T>(stream, a.op, a.space, a.y, a.x); });
}

template <>
void run(const UnaryGrad& a, Stream stream) {
  visit_floating(a.dtype,
                 [&]<class T> { map_op<Backward, UnaryOps, T, T>(stream, a.op, a.space, a.dx, a.dy, a.saved); });
}

template <>
void run(const UnaryGradGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    map_op<SecondBackward, UnaryOps, T, T>(stream, a.op, a.space, a.out, a.g, a.dy, a.saved);
  });
}

template <>
void run(const Binary& a, Stream stream) {
  visit(a.dtype, [&]<class T> { map_op<Forward, BinaryOps, T, T>(stream, a.op, a.space, a.y, a.a, a.b); });
}

template <>
void run(const Compare& a, Stream stream) {
  visit(a.dtype, [&]<class T> { map_op<Forward, CompareOps, T, bool>(stream, a.op, a.space, a.y, a.a, a.b); });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
