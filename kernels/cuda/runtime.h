// A GPU as the library sees it: devices, memory, streams, events. Implemented by the CUDA runtime (`cuda`, runtime.cpp)
// and by plain memory of the CPU (`emulated`, runtime_emulated.cpp); the build sets ANNEAL_GPU to the namespace of one.
//
// Calls act on the calling thread's device (`set_device`). Failures throw std::runtime_error with the call, and the
// name and text of CUDA's error; that may be one of earlier work, as work is queued and runs later. A stream is used by
// one thread at a time.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "anneal/kernels/stream.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

/// Each kernel of kernels.h specialises this in the file named for its kind. Pointers are to the device's memory.
template <class Args>
void run(const Args& args, Stream stream);

// ---- devices ----

/// 0 without a driver or without a device.
int device_count();
/// Why `device_count()` is 0; else empty.
std::string unavailable();
/// What this thread's later calls act on; device 0 until then.
void set_device(int device);
int current_device();
/// Such as "NVIDIA H200, compute capability 9.0, 139.8 GiB".
std::string device_name(int device);
/// What cuDNN makes plans by, as JSON (`Target::described` of cudnn_graph.h).
std::string device_description(int device);

/// Whether products of f32 may be rounded to TF32 (10 bits of mantissa) on their way into the matrix units. Off, unless
/// the environment has ANNEAL_TF32=1. Affects plans made from then on and all threads.
bool tf32_allowed();
void allow_tf32(bool allowed);

// ---- memory ----

/// Memory of the device, aligned to 256 bytes at least; null if it has not enough left. May wait for the device.
void* allocate(std::size_t bytes);
/// Waits for the work that may use it.
void release(void* p) noexcept;
/// Memory of the host that copies run fastest from and to, and beside kernels.
void* allocate_pinned(std::size_t bytes);
void release_pinned(void* p) noexcept;

// ---- streams ----

/// The stream that kernels of a device run on, made at first use; it does not wait for the default stream.
Stream compute_stream(int device);
/// The stream that batches are brought in on, beside the kernels.
Stream copy_stream(int device);
/// Waits until all that was queued has run.
void synchronize(Stream stream);
/// How often the host has waited for a stream or for a mark that had not been passed.
std::int64_t waits();

enum class Copying { to_device, to_host, on_device };
/// Queues a copy. Memory of the host stays untouched until it has run; if it is not pinned, this call may wait.
void copy(void* to, const void* from, std::size_t bytes, Copying kind, Stream stream);
void fill_zero(void* p, std::size_t bytes, Stream stream);

/// Scratch memory of a stream, aligned to 256 bytes at least; the next call for this stream may take it back. It grows
/// on demand from 32 MiB; growing waits for the stream.
void* workspace(Stream stream, std::size_t bytes);

/// A mark in a stream.
class Event {
 public:
  enum class Timing { off, on };
  explicit Event(Timing timing = Timing::off);
  ~Event();
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  /// Moves the mark behind all that is queued in `stream` so far.
  void record(Stream stream);
  /// What is queued in `stream` from now on waits for the mark.
  void wait_on(Stream stream) const;
  /// Whether the work before the mark has run; true before the first `record`.
  bool done() const;
  void synchronize() const;
  /// Between two marks that have been passed, both with Timing::on.
  double milliseconds_since(const Event& start) const;

 private:
  void* handle_;
};

// ---- for Nsight Systems ----

/// Names what the calling thread does (an NVTX range) until `pop_range`; ranges nest.
void push_range(const char* name);
void pop_range();

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
