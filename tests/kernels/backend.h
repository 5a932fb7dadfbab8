// The backend that kernel tests run: the CPU's, or the emulation of the GPU's when built with ANNEAL_TEST_EMULATED.
#pragma once

#include "anneal/kernels/kernels.h"

#if defined(ANNEAL_TEST_EMULATED)
#include "anneal/kernels/cuda/model.h"
#endif

namespace anneal::testing::backend {

#if defined(ANNEAL_TEST_EMULATED)
inline constexpr bool emulated = true;
#else
inline constexpr bool emulated = false;
#endif

template <class Args>
void run(const Args& args) {
#if defined(ANNEAL_TEST_EMULATED)
  kernels::emulated::run(args, {});
#else
  kernels::cpu::run(args);
#endif
}

}  // namespace anneal::testing::backend
