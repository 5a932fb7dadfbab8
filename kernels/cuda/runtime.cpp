#include "anneal/kernels/cuda/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

#include "anneal/kernels/cuda/check.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {
namespace {

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }
std::atomic<std::int64_t> waited = 0;

cudaEvent_t native(void* event) { return static_cast<cudaEvent_t>(event); }

struct Devices {
  int count = 0;
  std::string unavailable;

  Devices() {
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return;
    static_cast<void>(cudaGetLastError());
    count = 0;
    const std::string what = std::string(" (cudaGetDeviceCount: ") + cudaGetErrorName(error) + ")";
    int driver = 0;
    const bool no_driver = cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0;
    if (no_driver) unavailable = "no NVIDIA driver was found" + what;
    else if (error == cudaErrorInsufficientDriver)
      unavailable = "the NVIDIA driver is for CUDA " + version(driver) + "; this library needs one for CUDA " +
                    version(CUDART_VERSION) + what;
    else if (error == cudaSuccess || error == cudaErrorNoDevice) unavailable = "no CUDA device was found" + what;
    else unavailable = std::string(cudaGetErrorString(error)) + what;
  }

 private:
  static std::string version(int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  }
};
const Devices& devices() {
  static const Devices found;
  return found;
}

std::atomic<bool>& tf32() {
  static std::atomic<bool> allowed = [] {
    const char* const text = std::getenv("ANNEAL_TF32");
    return text && std::string_view(text) == "1";
  }();
  return allowed;
}

/// What lives as long as the process. Never destroyed: at exit the driver may be gone before.
struct Shared {
  struct Streams {
    Stream compute, copy;
  };
  struct Workspace {
    void* data = nullptr;
    std::size_t size = 0;
  };
  std::mutex mutex;
  std::map<int, Streams> streams;         // by device
  std::map<void*, Workspace> workspaces;  // by stream
};
Shared& shared() {
  static Shared& one = *new Shared;
  return one;
}

thread_local int thread_device = 0;

/// Makes a device the thread's for a while.
class OnDevice {
 public:
  explicit OnDevice(int device) : before_(thread_device) { set_device(device); }
  ~OnDevice() {
    thread_device = before_;
    static_cast<void>(cudaSetDevice(before_));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

Shared::Streams streams_of(int device) {
  const std::lock_guard lock(shared().mutex);
  Shared::Streams& streams = shared().streams[device];
  if (!streams.compute.handle) {
    const OnDevice here(device);
    const auto make = [](Stream& stream) {
      cudaStream_t made = nullptr;
      check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
      stream.handle = made;
    };
    if (!streams.copy.handle) make(streams.copy);
    make(streams.compute);
  }
  return streams;
}

}  // namespace

int device_count() { return devices().count; }
std::string unavailable() { return devices().unavailable; }

void set_device(int device) {
  if (device_count() == 0) throw std::runtime_error("cuda:" + std::to_string(device) + ": " + unavailable());
  check(cudaSetDevice(device), "cudaSetDevice");
  thread_device = device;
}
int current_device() { return thread_device; }

std::string device_name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  const auto tenths = static_cast<long>(static_cast<double>(properties.totalGlobalMem) / (1 << 30) * 10);
  return std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ", " + std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) +
         " GiB";
}

bool tf32_allowed() { return tf32(); }
void allow_tf32(bool allowed) { tf32() = allowed; }

void* allocate(std::size_t bytes) {
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  check(error, "cudaMalloc");
  return p;
}
void release(void* p) noexcept { static_cast<void>(cudaFree(p)); }

void* allocate_pinned(std::size_t bytes) {
  void* p = nullptr;
  check(cudaHostAlloc(&p, bytes, cudaHostAllocPortable), "cudaHostAlloc");
  return p;
}
void release_pinned(void* p) noexcept { static_cast<void>(cudaFreeHost(p)); }

Stream compute_stream(int device) { return streams_of(device).compute; }
Stream copy_stream(int device) { return streams_of(device).copy; }
void synchronize(Stream stream) {
  ++waited;
  check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}
std::int64_t waits() { return waited; }

void copy(void* to, const void* from, std::size_t bytes, Copying kind, Stream stream) {
  if (bytes == 0) return;
  const cudaMemcpyKind direction = kind == Copying::to_device ? cudaMemcpyHostToDevice
                                   : kind == Copying::to_host ? cudaMemcpyDeviceToHost
                                                              : cudaMemcpyDeviceToDevice;
  check(cudaMemcpyAsync(to, from, bytes, direction, native(stream)), "cudaMemcpyAsync");
}
void fill_zero(void* p, std::size_t bytes, Stream stream) {
  if (bytes > 0) check(cudaMemsetAsync(p, 0, bytes, native(stream)), "cudaMemsetAsync");
}

void* workspace(Stream stream, std::size_t bytes) {
  constexpr std::size_t at_first = std::size_t{32} << 20;  // what NVIDIA advises for matrix products on Hopper
  const std::lock_guard lock(shared().mutex);
  Shared::Workspace& space = shared().workspaces[stream.handle];
  if (!space.data || space.size < bytes) {
    synchronize(stream);
    release(std::exchange(space.data, nullptr));
    space.size = 0;
    space.data = allocate(std::max(at_first, bytes));
    if (!space.data)
      throw std::runtime_error("cudaMalloc: " + std::to_string(bytes) +
                               " bytes for the workspace of a stream are not left");
    space.size = std::max(at_first, bytes);
  }
  return space.data;
}

Event::Event(Timing timing) : handle_(nullptr) {
  cudaEvent_t made = nullptr;
  check(cudaEventCreateWithFlags(&made, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming),
        "cudaEventCreateWithFlags");
  handle_ = made;
}
Event::~Event() {
  if (handle_) static_cast<void>(cudaEventDestroy(native(handle_)));
}
void Event::record(Stream stream) { check(cudaEventRecord(native(handle_), native(stream)), "cudaEventRecord"); }
void Event::wait_on(Stream stream) const {
  check(cudaStreamWaitEvent(native(stream), native(handle_), 0), "cudaStreamWaitEvent");
}
bool Event::done() const {
  const cudaError_t error = cudaEventQuery(native(handle_));
  if (error == cudaErrorNotReady) return false;
  check(error, "cudaEventQuery");
  return true;
}
void Event::synchronize() const {
  if (done()) return;
  ++waited;
  check(cudaEventSynchronize(native(handle_)), "cudaEventSynchronize");
}
double Event::milliseconds_since(const Event& start) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, native(start.handle_), native(handle_)), "cudaEventElapsedTime");
  return milliseconds;
}

#if __has_include(<nvtx3/nvToolsExt.h>)
void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }
#else  // a CUDA toolkit may come without it
void push_range(const char*) {}
void pop_range() {}
#endif

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
