// Memory that a kernel needs for itself.
#pragma once

#include <cstdint>
#include <new>

#include "anneal/kernels/dtype.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// What a thread's scratch memory is for; each purpose has its own.
enum class Scratch { panel, rows, product, image, weight, partial, bias, table, count };

/// This thread's memory for a purpose: at least n elements, aligned to 64 bytes, kept until the thread ends. Contents
/// are undefined, and lost when the same purpose is asked for more.
template <class C>
ANNEAL_HD C* scratch(Scratch purpose, std::int64_t n) {
  struct Memory {
    void* data = nullptr;
    std::size_t size = 0;
    ~Memory() { ::operator delete (data, std::align_val_t{64}); }
  };
  thread_local Memory memories[static_cast<int>(Scratch::count)];
  Memory& memory = memories[static_cast<int>(purpose)];
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(C);
  if (memory.size < bytes) {
    ::operator delete (memory.data, std::align_val_t{64});
    memory = {nullptr, 0};
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    memory.data = ::operator new (rounded, std::align_val_t{64});
    memory.size = rounded;
  }
  return static_cast<C*>(memory.data);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
