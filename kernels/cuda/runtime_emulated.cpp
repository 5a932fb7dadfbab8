// The runtime of the emulation: one device whose memory is the host's and whose streams run everything at once. Marks
// seem to be passed later, so that it shows who does not wait: asked for one, the device says no, and then catches up.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "anneal/kernels/cuda/runtime.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t alignment = 256;  // of cudaMalloc
std::atomic<bool> tf32 = false;
std::atomic<std::int64_t> waited = 0;

std::atomic<std::int64_t> recorded = 0, passed = 0;  // marks, in their order

struct Mark {
  Clock::time_point time;
  std::int64_t number = 0;  // before the first `record`
};
Mark& mark_of(void* event) { return *static_cast<Mark*>(event); }

}  // namespace

// As with CUDA, a process may be shown none.
int device_count() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible && *visible == 0 ? 0 : 1;
}
std::string unavailable() { return device_count() == 0 ? "CUDA_VISIBLE_DEVICES is empty" : std::string(); }
void set_device(int device) {
  if (device != 0) throw std::runtime_error("there is one emulated device; got device " + std::to_string(device));
}
int current_device() { return 0; }
std::string device_name(int) { return "an emulation of a GPU"; }
std::string device_description(int) { return "{}"; }

bool tf32_allowed() { return tf32; }
void allow_tf32(bool allowed) { tf32 = allowed; }

void* allocate(std::size_t bytes) {
  if (bytes > static_cast<std::size_t>(-1) - alignment) return nullptr;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void release(void* p) noexcept { std::free(p); }
void* allocate_pinned(std::size_t bytes) {
  void* const p = allocate(bytes);
  if (!p && bytes > 0) throw std::runtime_error("no " + std::to_string(bytes) + " bytes left");
  return p;
}
void release_pinned(void* p) noexcept { release(p); }

Stream compute_stream(int) { return {}; }
Stream copy_stream(int) { return {}; }
void synchronize(Stream) { ++waited; }
std::int64_t waits() { return waited; }

void copy(void* to, const void* from, std::size_t bytes, Copying, Stream) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void fill_zero(void* p, std::size_t bytes, Stream) {
  if (bytes > 0) std::memset(p, 0, bytes);
}

Event::Event(Timing) : handle_(new Mark) {}
Event::~Event() { delete static_cast<Mark*>(handle_); }
void Event::record(Stream) {
  mark_of(handle_).time = Clock::now();
  mark_of(handle_).number = ++recorded;
}
void Event::wait_on(Stream) const {}
bool Event::done() const {
  if (mark_of(handle_).number <= passed) return true;
  passed.store(recorded);
  return false;
}
void Event::synchronize() const {
  if (!done()) ++waited;
}
double Event::milliseconds_since(const Event& start) const {
  return std::chrono::duration<double, std::milli>(mark_of(handle_).time - mark_of(start.handle_).time).count();
}

void push_range(const char*) {}
void pop_range() {}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
