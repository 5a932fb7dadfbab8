#include "anneal/dist/gloo_group.h"

#if ANNEAL_HAS_GLOO

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <utility>

#include "anneal/dist/cpu_group.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// A peer's death reaches Gloo and the store at about the same time; the store's words are better.
constexpr std::chrono::seconds patience_for_verdict{1};
// For what takes milliseconds once all ranks are there.
constexpr std::chrono::seconds connect_timeout{30};

// Gloo's view of our store.
class Rendezvous final : public gloo::rendezvous::Store {
 public:
  Rendezvous(dist::Store& store, std::string prefix) : store_(store), prefix_(std::move(prefix)) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    store_.set(prefix_ + key, {data.data(), data.size()});
  }
  std::vector<char> get(const std::string& key) override {
    const std::string value = store_.get(prefix_ + key, connect_timeout);
    return {value.begin(), value.end()};
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, connect_timeout); }
  void wait(const std::vector<std::string>& keys, const milliseconds& timeout) override {
    const auto deadline = steady_clock::now() + timeout;
    for (const std::string& key : keys)
      store_.get(prefix_ + key,
                 std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now())));
  }

 private:
  dist::Store& store_;
  std::string prefix_;
};

// While it lives SIGPIPE is blocked in this thread, and for good in the threads that it starts. Gloo writes to sockets
// without asking for EPIPE instead: a peer's death would end this process too.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::sigemptyset(&sigpipe_);
    ::sigaddset(&sigpipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  ~WithoutSigpipe() {
    constexpr timespec now{};
    while (!was_pending_ && ::sigtimedwait(&sigpipe_, nullptr, &now) == SIGPIPE) {}
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  WithoutSigpipe& operator=(const WithoutSigpipe&) = delete;

 private:
  sigset_t sigpipe_, before_;
  bool was_pending_;
};

std::shared_ptr<gloo::transport::Device> make_device(const dist::Store& store) {
  gloo::transport::tcp::attr address;
  if (const char* host = std::getenv("ANNEAL_HOST"); host && *host) address.hostname = host;
  else if (const char* interface = std::getenv("ANNEAL_IFACE"); interface && *interface) address.iface = interface;
  else address.hostname = store.local_address();
  return gloo::transport::tcp::CreateDevice(address);
}

class GlooTransport final : public Transport {
 public:
  GlooTransport(dist::Store& store, const GlooOptions& options)
      : timeout_(options.collective_timeout),
        context_(std::make_shared<gloo::rendezvous::Context>(store.rank(), store.world_size())) {
    // Gloo's own set-up is best left until nobody is missing.
    const std::string name = "gloo/" + options.name;
    store.exchange(name, "", options.rendezvous_timeout);
    try {
      auto device = make_device(store);
      // A name may be used again: each use has keys of its own.
      const std::int64_t use = store.add(format("{}/uses/{}", name, store.rank()), 1);
      Rendezvous rendezvous(store, format("{}/{}/", name, use));
      context_->setTimeout(connect_timeout);
      context_->connectFullMesh(rendezvous, device);
    } catch (const Error&) { throw; } catch (const std::exception& error) {
      if (const auto verdict = store.failure()) throw RankFailure(*verdict);
      throw Error(
          format("gloo group {}: rank {} cannot reach the others: {}", options.name, store.rank(), error.what()));
    }
  }

  void receive(int from, std::uint64_t slot, std::span<std::byte> into) override {
    post(from, false, into.data(), into.size(), [&](auto& buffer) { buffer.recv(from, slot); });
  }

  void send(int to, std::uint64_t slot, std::span<const std::byte> bytes) override {
    // Gloo's buffers serve both directions; a sent one is only read.
    post(to, true, const_cast<std::byte*>(bytes.data()), bytes.size(), [&](auto& buffer) { buffer.send(to, slot); });
  }

  void wait(std::size_t n) override {
    for (; n > 0; --n) {
      const Post& next = posts_.front();
      const auto began = steady_clock::now();
      bool complete = false;
      try {
        complete = next.is_send ? next.buffer->waitSend(timeout_) : next.buffer->waitRecv(timeout_);
      } catch (const std::exception& error) {
        check(steady_clock::now() - began < timeout_, "rank {} did not come within {} s", next.peer,
              std::chrono::duration<double>(timeout_).count());
        lost(next.peer, error);
      }
      const std::lock_guard lock(mutex_);
      if (!complete) throw Error(why_.value_or("aborted"));
      posts_.pop_front();
    }
  }

  void cancel() noexcept override {
    const std::lock_guard lock(mutex_);
    posts_.clear();
  }

  void abort(const std::string& why) override {
    const std::lock_guard lock(mutex_);
    if (!why_) why_ = why;
    for (const Post& post : posts_) {
      if (post.is_send) post.buffer->abortWaitSend();
      else post.buffer->abortWaitRecv();
    }
    aborted_.notify_all();
  }

 private:
  struct Post {
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
    int peer;
    bool is_send;
  };

  template <class F>
  void post(int peer, bool is_send, void* data, std::size_t bytes, F start) {
    try {
      auto buffer = context_->createUnboundBuffer(data, bytes);
      const std::lock_guard lock(mutex_);
      if (why_) throw Error(*why_);
      start(*buffer);
      posts_.push_back({std::move(buffer), peer, is_send});
    } catch (const Error&) { throw; } catch (const std::exception& error) {
      lost(peer, error);
    }
  }

  [[noreturn]] void lost(int peer, const std::exception& error) {
    std::unique_lock lock(mutex_);
    aborted_.wait_for(lock, patience_for_verdict, [&] { return why_.has_value(); });
    throw Error(why_ ? *why_ : format("lost the connection to rank {}: {}", peer, error.what()));
  }

  const milliseconds timeout_;
  const std::shared_ptr<gloo::rendezvous::Context> context_;

  std::mutex mutex_;
  std::condition_variable aborted_;
  std::optional<std::string> why_;
  std::deque<Post> posts_;  // only the posting thread changes it
};

class GlooGroup final : public CpuGroup {
 public:
  GlooGroup(std::shared_ptr<Store> store, const GlooOptions& options)
      : CpuGroup(store->rank(), store->world_size(), std::make_unique<GlooTransport>(*store, options)),
        store_(std::move(store)),
        subscription_(store_->on_failure([this](const std::string& verdict) { abort(verdict); })) {}

  ~GlooGroup() override {
    // A rank that closed its connections early would look lost to those that are still busy.
    if (!failure() && std::uncaught_exceptions() == 0) barrier_async();
    drain();
  }

 private:
  std::shared_ptr<Store> store_;
  Store::Subscription subscription_;
};

}  // namespace

bool has_gloo() { return true; }

std::shared_ptr<ProcessGroup> gloo_group(std::shared_ptr<Store> store, GlooOptions options) {
  const WithoutSigpipe guard;
  return std::make_shared<GlooGroup>(std::move(store), options);
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal

#else

namespace anneal {
inline namespace v0 {
namespace dist {

bool has_gloo() { return false; }

std::shared_ptr<ProcessGroup> gloo_group(std::shared_ptr<Store>, GlooOptions) {
  throw Error("this library was built without Gloo; install libgloo-dev and configure with -DANNEAL_GLOO=ON");
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal

#endif
