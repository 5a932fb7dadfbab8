#include "anneal/dist/nccl_group.h"

#if ANNEAL_HAS_NCCL

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "anneal/dist/nccl_library.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Kind = Signature::Kind;

constexpr milliseconds poll_interval{1};
constexpr milliseconds watch_interval{20};
constexpr std::chrono::seconds patience_at_the_end{10};

void check_cuda(cudaError_t result, const char* what) {
  check(result == cudaSuccess, "{}: {}", what, cudaGetErrorString(result));
}

class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) const { check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// What the stream is given from now on waits for the event.
  void hold(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent"); }
  bool done() const { return cudaEventQuery(event_) != cudaErrorNotReady; }

 private:
  cudaEvent_t event_ = nullptr;
};

ncclDataType_t nccl_type(DType dtype) {
  constexpr ncclDataType_t types[] = {ncclFloat32, ncclFloat64, ncclFloat16, ncclBfloat16,
                                      ncclInt64,   ncclInt32,   ncclUint8,   ncclUint8};
  return types[static_cast<int>(dtype)];
}

ncclRedOp_t nccl_op(const Signature& signature) {
  if (signature.op == ReduceOp::min) return ncclMin;
  // "Any" of bools, which travel as bytes, is their maximum.
  return signature.op == ReduceOp::max || signature.dtype == DType::boolean ? ncclMax : ncclSum;
}

// A communicator, its stream, and the thread that watches it. That thread alone ends a communicator that failed: NCCL
// may hang there, and then the thread keeps this object and is left behind.
class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(Store& store, NcclOptions options, std::shared_ptr<FlightRecorder> flights)
      : nccl_(NcclLibrary::open()), options_(std::move(options)), flights_(std::move(flights)) {
    check_cuda(cudaSetDevice(options_.device), "nccl: cudaSetDevice");
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreateWithPriority");
    try {
      check_cuda(cudaMalloc(&barrier_byte_, 1), "cudaMalloc");
      connect(store);
    } catch (...) {
      release();
      throw;
    }
  }
  ~Communicator() { release(); }

  void start() {
    std::thread([self = shared_from_this()] { self->watch(); }).detach();
  }

  /// Ends the communicator and waits for the watching thread, but not for ever.
  void stop() {
    if (std::uncaught_exceptions() > 0) abort("the rank left the group");
    std::unique_lock lock(mutex_);
    if (!idle_.wait_for(lock, patience_at_the_end, [&] { return why_ || in_flight_.empty(); }))
      why_ = "the others did not come to the end";
    stop_ = true;
    changed_.notify_all();
    idle_.wait_for(lock, 2 * patience_at_the_end, [&] { return watch_ended_; });
  }

  void abort(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (!why_) why_ = why;
    changed_.notify_all();
    idle_.notify_all();
  }

  std::optional<std::string> failure() const {
    const std::lock_guard lock(mutex_);
    return why_;
  }

  cudaStream_t compute_stream() const {
    return options_.compute_stream ? static_cast<cudaStream_t>(options_.compute_stream()) : nullptr;
  }

  /// Puts a collective on the stream. The result is done when it is.
  std::shared_ptr<Event> launch(Operation operation) {
    auto ready = std::make_unique<Event>();
    auto done = std::make_shared<Event>();
    const std::lock_guard lock(use_);
    if (failure()) return nullptr;
    try {
      ready->record(compute_stream());
      ready->hold(stream_);
      flights_->begin(operation);
      enqueue(operation);
      settle("", steady_clock::now() + options_.collective_timeout);
      done->record(stream_);
    } catch (const std::exception& error) {
      flights_->end(operation.sequence, false);
      abort(error.what());
      return nullptr;
    }
    const std::lock_guard queue_lock(mutex_);
    in_flight_.push_back({std::move(operation), std::move(ready), done, {}});
    return done;
  }

 private:
  struct InFlight {
    Operation operation;  // keeps the tensors
    std::unique_ptr<Event> ready;
    std::shared_ptr<Event> done;
    std::optional<steady_clock::time_point> began;  // when it was first seen to be ready and first in line
  };

  void check_nccl(ncclResult_t result, const char* what) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    const char* detail = nccl_.get_last_error(comm_);
    throw Error(format("{}NCCL: {} ({})", what, nccl_.get_error_string(result), detail ? detail : ""));
  }

  // The library answers "in progress" until a call has really been made; no other may be made before.
  void settle(const char* what, steady_clock::time_point deadline) const {
    for (ncclResult_t state = ncclInProgress;; std::this_thread::sleep_for(poll_interval)) {
      check_nccl(nccl_.comm_get_async_error(comm_, &state), what);
      check_nccl(state, what);
      if (state == ncclSuccess) return;
      if (const auto why = failure()) throw Error(*why);
      check(steady_clock::now() < deadline, "{}NCCL made no progress before the time-out", what);
    }
  }

  void connect(Store& store) {
    const auto deadline = steady_clock::now() + options_.rendezvous_timeout;
    ncclUniqueId id{};
    if (store.rank() == 0) check_nccl(nccl_.get_unique_id(&id), "");
    const std::string mine = format("{} ", nccl_.version) + std::string(id.internal, sizeof id.internal);
    const auto all = store.exchange("nccl/" + options_.name, mine, options_.rendezvous_timeout);
    const auto version_of = [](const std::string& text) { return text.substr(0, text.find(' ')); };
    for (std::size_t r = 1; r < all.size(); ++r)
      check(version_of(all[r]) == version_of(all[0]), "NCCL: rank {} has version {}, rank 0 has {}", r,
            version_of(all[r]), version_of(all[0]));
    std::memcpy(id.internal, all[0].data() + all[0].size() - sizeof id.internal, sizeof id.internal);

    const Store::Subscription subscription = store.on_failure([this](const std::string& verdict) { abort(verdict); });
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const std::string what = format("nccl group {}: ", options_.name);
    check_nccl(nccl_.comm_init_rank_config(&comm_, store.world_size(), id, store.rank(), &config), what.c_str());
    settle(what.c_str(), deadline);
  }

  void enqueue(const Operation& operation) {
    const Signature& signature = operation.signature;
    const auto count = static_cast<std::size_t>(signature.count);
    const ncclDataType_t type = nccl_type(signature.dtype);
    void* const out = operation.output.defined() ? operation.output.raw() : nullptr;
    const void* const in = operation.input.defined() ? operation.input.raw() : nullptr;
    const auto call = [&] {
      switch (signature.kind) {
        case Kind::all_reduce: return nccl_.all_reduce(out, out, count, type, nccl_op(signature), comm_, stream_);
        case Kind::broadcast: return nccl_.broadcast(out, out, count, type, signature.root, comm_, stream_);
        case Kind::all_gather: return nccl_.all_gather(in, out, count, type, comm_, stream_);
        case Kind::reduce_scatter:
          return nccl_.reduce_scatter(in, out, count, type, nccl_op(signature), comm_, stream_);
        case Kind::barrier: break;
      }
      return nccl_.all_reduce(barrier_byte_, barrier_byte_, 1, ncclUint8, ncclMax, comm_, stream_);
    };
    check_nccl(call(), "");
  }

  void watch() {
    cudaSetDevice(options_.device);
    std::unique_lock lock(mutex_);
    while (!stop_ && !why_) {
      changed_.wait_for(lock, watch_interval);
      reap();
      if (why_ || stop_) break;
      lock.unlock();
      std::optional<std::string> error = asynchronous_error();
      lock.lock();
      if (error && !why_) why_ = std::move(error);
    }
    const bool failed = why_.has_value();
    for (const InFlight& flight : in_flight_) flights_->end(flight.operation.sequence, false);
    idle_.notify_all();
    lock.unlock();
    {
      const std::lock_guard use_lock(use_);
      end(failed);
    }
    lock.lock();
    in_flight_.clear();
    watch_ended_ = true;
    idle_.notify_all();
  }

  // Forgets the collectives that are done, and notices one that takes too long.
  void reap() {
    while (!in_flight_.empty() && in_flight_.front().done->done()) {
      flights_->end(in_flight_.front().operation.sequence, true);
      in_flight_.pop_front();
    }
    idle_.notify_all();
    if (in_flight_.empty() || why_) return;
    InFlight& first = in_flight_.front();
    const auto now = steady_clock::now();
    if (!first.began && first.ready->done()) first.began = now;
    if (first.began && now - *first.began > options_.collective_timeout)
      why_ = format("{} did not end within {} s", first.operation.describe(),
                    std::chrono::duration<double>(options_.collective_timeout).count());
  }

  std::optional<std::string> asynchronous_error() const {
    const std::unique_lock lock(use_, std::try_to_lock);
    if (!lock) return {};  // somebody is in NCCL, and looks there
    ncclResult_t state = ncclSuccess;
    try {
      check_nccl(nccl_.comm_get_async_error(comm_, &state), "");
      check_nccl(state, "");
    } catch (const Error& error) { return error.what(); }
    return {};
  }

  // In the watching thread: the other calls have stopped.
  void end(bool failed) {
    if (!failed) {
      try {
        check_nccl(nccl_.comm_finalize(comm_), "");
        settle("", steady_clock::now() + patience_at_the_end);
      } catch (const Error&) { failed = true; }
    }
    const ncclComm_t comm = std::exchange(comm_, nullptr);
    if (failed) nccl_.comm_abort(comm);
    else nccl_.comm_destroy(comm);
  }

  void release() {
    if (comm_) nccl_.comm_abort(comm_);
    if (barrier_byte_) cudaFree(barrier_byte_);
    cudaStreamDestroy(stream_);
  }

  const NcclLibrary nccl_;
  const NcclOptions options_;
  const std::shared_ptr<FlightRecorder> flights_;
  cudaStream_t stream_ = nullptr;
  void* barrier_byte_ = nullptr;

  mutable std::mutex use_;  // one call into the communicator at a time
  ncclComm_t comm_ = nullptr;

  mutable std::mutex mutex_;  // of what follows; never held in a call to NCCL
  std::condition_variable changed_, idle_;
  std::deque<InFlight> in_flight_;
  std::optional<std::string> why_;
  bool stop_ = false, watch_ended_ = false;
};

class NcclWork final : public Work::State {
 public:
  NcclWork(std::shared_ptr<Communicator> communicator, std::shared_ptr<Event> event, std::string name, bool hold_host)
      : communicator_(std::move(communicator)),
        event_(std::move(event)),
        name_(std::move(name)),
        hold_host_(hold_host) {}

  void wait() override {
    while (hold_host_ && !done()) std::this_thread::sleep_for(poll_interval);
    if (const auto why = communicator_->failure()) throw Error(name_ + ": " + *why);
    event_->hold(communicator_->compute_stream());
  }
  bool done() const override { return communicator_->failure() || event_->done(); }

 private:
  std::shared_ptr<Communicator> communicator_;
  std::shared_ptr<Event> event_;  // null only after a failure
  std::string name_;
  bool hold_host_;
};

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(std::shared_ptr<Store> store, const NcclOptions& options)
      : ProcessGroup(store->rank(), store->world_size()),
        device_{DeviceKind::cuda, static_cast<std::int8_t>(options.device)},
        communicator_(std::make_shared<Communicator>(*store, options, flights_)),
        store_(std::move(store)) {
    communicator_->start();
    subscription_ = store_->on_failure([this](const std::string& verdict) { abort(verdict); });
  }
  ~NcclGroup() override { communicator_->stop(); }

  Device device() const override { return device_; }
  void abort(const std::string& why) override { communicator_->abort(why); }
  std::optional<std::string> failure() const override { return communicator_->failure(); }

 protected:
  Work submit(Operation operation) override {
    std::string name = operation.describe();
    const bool hold_host = operation.signature.kind == Kind::barrier;
    std::shared_ptr<Event> done = communicator_->launch(std::move(operation));
    return Work(std::make_shared<NcclWork>(communicator_, std::move(done), std::move(name), hold_host));
  }

 private:
  Device device_;
  std::shared_ptr<Communicator> communicator_;
  std::shared_ptr<Store> store_;
  Store::Subscription subscription_;
};

}  // namespace

int nccl_version() { return NcclLibrary::open().version; }

std::shared_ptr<ProcessGroup> nccl_group(std::shared_ptr<Store> store, NcclOptions options) {
  return std::make_shared<NcclGroup>(std::move(store), options);
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal

#else

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

[[noreturn]] void no_nccl() {
  throw Error("NCCL: this library was built without CUDA or NCCL; configure with -DANNEAL_CUDA=ON");
}

}  // namespace

int nccl_version() { no_nccl(); }

std::shared_ptr<ProcessGroup> nccl_group(std::shared_ptr<Store>, NcclOptions) { no_nccl(); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal

#endif
