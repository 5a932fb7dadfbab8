#include "anneal/dist/store.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "anneal/dist/socket.h"
#include "anneal/dist/store_state.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFarewell = std::chrono::seconds(1);

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// Who wants to hear of a verdict. Outlives the Store as long as a subscription does.
class Listeners : public std::enable_shared_from_this<Listeners> {
 public:
  using Callback = std::function<void(const std::string& verdict)>;

  Store::Subscription add(Callback callback) {
    const std::lock_guard lock(mutex_);
    if (fired_) {
      callback(verdict_);
      return {};
    }
    const int id = next_++;
    callbacks_.emplace(id, std::move(callback));
    // The pointer's deleter ends the subscription.
    return {this, [self = shared_from_this(), id](void*) { self->remove(id); }};
  }
  void fire(const std::string& verdict) {
    const std::lock_guard lock(mutex_);
    fired_ = true;
    verdict_ = verdict;
    while (!callbacks_.empty()) callbacks_.extract(callbacks_.begin()).mapped()(verdict);
  }

 private:
  void remove(int id) {
    const std::lock_guard lock(mutex_);
    callbacks_.erase(id);
  }

  std::recursive_mutex mutex_;  // held while callbacks run: who removes one waits for it
  std::map<int, Callback> callbacks_;
  int next_ = 0;
  bool fired_ = false;
  std::string verdict_;
};

/// Ends the process when a time has passed and the process still has this object.
class Watchdog {
 public:
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  void start(milliseconds limit, const std::string& last_words) {
    thread_ = std::thread([this, limit, last_words] {
      std::unique_lock lock(mutex_);
      if (wake_.wait_for(lock, limit, [this] { return stopped_; })) return;
      std::cerr << last_words + '\n' << std::flush;
      std::_Exit(kExitLostPeer);
    });
  }

 private:
  static constexpr int kExitLostPeer = 76;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace

/// The connection: callers leave their messages in the outbox, one thread does all sending and hearing.
class Store::Client {
 public:
  explicit Client(StoreOptions options)
      : options_(std::move(options)),
        place_(endpoint(options_.host, options_.port)),
        interval_(beat_interval(options_.failure_timeout)) {
    check(wake_.get() >= 0, "store: no descriptors left");
    join();
    address_ = address_of(stream_.get());
    thread_ = std::thread([this] {
      try {
        run();
      } catch (const std::exception& error) { end(format("rank {} failed: {}", options_.rank, error.what())); }
    });
  }
  ~Client() {
    // An exception that takes this rank away is a failure, which others must not wait to find out.
    if (std::uncaught_exceptions() > exceptions_) fail("it ended with an exception");
    {
      const std::lock_guard lock(mutex_);
      outbox_ += encode({Op::bye, 0, {}});
      leaving_ = true;
    }
    ::eventfd_write(wake_.get(), 1);
    thread_.join();
  }

  const StoreOptions& options() const { return options_; }
  const std::string& address() const { return address_; }
  Listeners& listeners() { return *listeners_; }
  std::optional<std::string> verdict() const {
    const std::lock_guard lock(mutex_);
    return verdict_;
  }

  /// The reply to a request that the server answers within `timeout`.
  std::string ask(Op op, std::string payload, milliseconds timeout = {}) {
    std::unique_lock lock(mutex_);
    throw_if_over();
    const std::uint64_t request = next_request_++;
    const auto reply = replies_.try_emplace(request).first;
    post({op, request, std::move(payload)});
    changed_.wait_for(lock, timeout + kPatience, [&] { return reply->second || over_; });
    const std::optional<Frame> came = std::move(replies_.extract(reply).mapped());
    if (!came) throw_if_over();
    check(came.has_value(), "the store at {} does not answer", place_);
    check(came->op == Op::done, "{}", came->payload);
    return came->payload;
  }
  /// Until the listeners here have heard the verdict: what they stop must not begin anything after it.
  void fail(const std::string& why) {
    if (std::this_thread::get_id() == thread_.get_id()) return;  // it is a listener who asks
    std::unique_lock lock(mutex_);
    if (!over_) post({Op::fail, 0, why.substr(0, kMaxKey)});
    changed_.wait_for(lock, kPatience, [&] { return told_; });
  }

 private:
  static constexpr milliseconds kPatience = std::chrono::seconds(30);  // with a server that should answer at once
  using Time = AwakeClock::Time;

  void join() {
    constexpr milliseconds kFirstPause(50), kLongestPause(1000);
    const auto end = steady_clock::now() + std::min<milliseconds>(options_.rendezvous_timeout, std::chrono::hours(24));
    for (milliseconds pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
      const std::string why = try_to_join(end);
      if (why.empty()) return;
      check(steady_clock::now() + pause < end, "rank {} found no store at {} within {}: {}", options_.rank, place_,
            seconds_text(options_.rendezvous_timeout), why);
      std::this_thread::sleep_for(pause);
    }
  }

  /// Why another try may help; empty when the server has welcomed this rank.
  std::string try_to_join(Time end) {
    constexpr milliseconds kConnect(3000), kAnswer(5000);
    const auto within = [end](milliseconds limit) {
      return std::clamp(std::chrono::duration_cast<milliseconds>(end - steady_clock::now()), milliseconds(1), limit);
    };
    try {
      stream_ = Stream(connect_to(options_.host, options_.port, within(kConnect)));
    } catch (const Error& error) { return error.what(); }
    reader_ = FrameReader();
    const std::int64_t timeout = options_.failure_timeout.count();
    stream_.send(encode({Op::hello, 0,
                         pack(kMagic, kVersion, options_.token, options_.rank, options_.world_size, timeout,
                              host_name(), ::getpid())}));
    for (const auto by = steady_clock::now() + within(kAnswer); steady_clock::now() < by;) {
      const bool sent = stream_.flush();
      pollfd ready{.fd = stream_.get(), .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, 50);
      const std::optional<std::string> bytes = stream_.read();
      if (!sent || !bytes) return "the connection was closed, perhaps by another program";
      reader_.feed(*bytes);
      if (is_welcome()) return {};
    }
    return "no answer, perhaps from another program";
  }

  /// False if the answer has yet to come; throws Error if it is none, or a refusal.
  bool is_welcome() {
    std::string refusal;
    try {
      const std::optional<Frame> answer = reader_.next();
      if (!answer) return false;
      if (answer->op == Op::verdict) throw RankFailure(answer->payload);
      Unpacker payload(answer->payload);
      check((answer->op == Op::welcome || answer->op == Op::refuse) && payload.text() == kMagic,
            "no answer of a store");
      if (answer->op == Op::welcome) return true;
      refusal = payload.text();
    } catch (const RankFailure&) { throw; } catch (const Error&) {
      throw Error(format("port {} on {} is taken by another program", options_.port, options_.host));
    }
    throw Error(format("the store at {} refuses rank {}: {}", place_, options_.rank, refusal));
  }

  /// Needs the lock.
  void post(const Frame& frame) {
    outbox_ += encode(frame);
    ::eventfd_write(wake_.get(), 1);
  }
  /// Needs the lock.
  void throw_if_over() const {
    if (verdict_) throw RankFailure(*verdict_);
    check(!over_, "the store at {} has been closed", place_);
  }

  void run() {
    AwakeClock clock(4 * interval_);
    Time heard = clock.now(), next_beat = heard;
    std::optional<Time> leave_by;
    while (!is_over()) {
      if (send_outbox() && !leave_by) leave_by = clock.now() + kFarewell;
      wait();
      const std::optional<std::string> bytes = stream_.read();
      const Time now = clock.now();
      if (!bytes || (leave_by && now >= *leave_by)) {
        if (leave_by) return end({});
        return end(format("rank 0 (the store at {}) died", place_));
      }
      if (!bytes->empty()) heard = now;
      hear(*bytes);
      if (now - heard >= silence_limit(options_.failure_timeout)) say_lost();
      if (now >= next_beat) {
        if (stream_.unsent() == 0) stream_.send(encode({}));
        next_beat = now + interval_;
      }
    }
  }

  bool is_over() const {
    const std::lock_guard lock(mutex_);
    return over_;
  }
  /// True when the last of it was a bye.
  bool send_outbox() {
    const std::lock_guard lock(mutex_);
    stream_.send(std::exchange(outbox_, {}));
    stream_.flush();  // a broken connection is seen by reading
    return leaving_;
  }
  void wait() {
    const short events = stream_.unsent() > 0 ? POLLIN | POLLOUT : POLLIN;
    std::array<pollfd, 2> ready{{{stream_.get(), events, 0}, {wake_.get(), POLLIN, 0}}};
    ::poll(ready.data(), ready.size(), static_cast<int>(interval_.count()));
    eventfd_t count;
    ::eventfd_read(wake_.get(), &count);
  }

  void hear(std::string_view bytes) {
    try {
      reader_.feed(bytes);
      while (std::optional<Frame> frame = reader_.next()) {
        if (frame->op == Op::verdict) return end(frame->payload);
        if (frame->op == Op::bye) return end({});
        const std::lock_guard lock(mutex_);
        if (const auto asked = replies_.find(frame->request); asked != replies_.end() && frame->op != Op::beat) {
          asked->second = std::move(frame);
          changed_.notify_all();
        }
      }
    } catch (const Error& error) { end(format("rank 0 (the store at {}) failed: it sent {}", place_, error.what())); }
  }

  /// The server shall say the same to the others, if it ever wakes up.
  void say_lost() {
    const std::string verdict = format("rank 0 (the store at {}) stopped responding for {}", place_,
                                       seconds_text(silence_limit(options_.failure_timeout)));
    stream_.send(encode({Op::lost, 0, verdict}));
    end(verdict);
  }

  /// The end of the connection, with a verdict or without.
  void end(const std::string& verdict) {
    stream_.finish();
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      over_ = true;
      if (!verdict.empty()) verdict_ = verdict;
    }
    changed_.notify_all();
    if (!verdict.empty()) {
      const milliseconds grace =
          options_.failure_timeout.count() ? options_.failure_timeout : StoreOptions().failure_timeout;
      if (std::getenv("ANNEAL_LAUNCHED")) watchdog_.start(grace, verdict);
      listeners_->fire(verdict);
    }
    {
      const std::lock_guard lock(mutex_);
      told_ = true;
    }
    changed_.notify_all();
  }

  const StoreOptions options_;
  const std::string place_;
  const milliseconds interval_;
  const int exceptions_ = std::uncaught_exceptions();
  std::string address_;

  Stream stream_{FileDescriptor()};  // with the reader: the thread's, once it runs
  FrameReader reader_;
  FileDescriptor wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

  mutable std::mutex mutex_;  // of all that follows, up to told_
  std::condition_variable changed_;
  std::string outbox_;
  std::uint64_t next_request_ = 1;
  std::map<std::uint64_t, std::optional<Frame>> replies_;  // none: still to come
  std::optional<std::string> verdict_;
  bool leaving_ = false;
  bool over_ = false, told_ = false;  // the connection is; its listeners have heard why

  const std::shared_ptr<Listeners> listeners_ = std::make_shared<Listeners>();
  Watchdog watchdog_;
  std::thread thread_;
};

namespace {

std::string checked_key(const std::string& key) {
  check(key.size() <= Store::kMaxKey, "store: a key of {} bytes; at most {}", key.size(), Store::kMaxKey);
  return key;
}
std::string_view checked_value(const std::string& key, std::string_view value) {
  check(value.size() <= Store::kMaxValue, "store: a value of {} bytes for '{}'; at most {}", value.size(), key,
        Store::kMaxValue);
  return value;
}
milliseconds checked_timeout(milliseconds timeout) {
  return std::clamp<milliseconds>(timeout, milliseconds(0), std::chrono::hours(24 * 365));
}

}  // namespace

Store::Store(StoreOptions options) {
  check<ConfigError>(options.failure_timeout.count() >= 0, "failure_timeout: {} ms; must not be negative",
                     options.failure_timeout.count());
  client_ = std::make_unique<Client>(std::move(options));
}
Store::~Store() = default;

int Store::rank() const { return client_->options().rank; }
int Store::world_size() const { return client_->options().world_size; }
const std::string& Store::local_address() const { return client_->address(); }

void Store::set(const std::string& key, std::string_view value) {
  client_->ask(Op::set, pack(checked_key(key), checked_value(key, value)));
}
std::string Store::get(const std::string& key, Milliseconds timeout) {
  timeout = checked_timeout(timeout);
  return client_->ask(Op::get, pack(checked_key(key), std::int64_t{timeout.count()}), timeout);
}
std::int64_t Store::add(const std::string& key, std::int64_t delta) {
  return Unpacker(client_->ask(Op::add, pack(checked_key(key), delta))).number();
}
std::vector<std::string> Store::exchange(const std::string& name, std::string_view mine, Milliseconds timeout) {
  timeout = checked_timeout(timeout);
  const std::string all = client_->ask(
      Op::exchange, pack(checked_key(name), checked_value(name, mine), std::int64_t{timeout.count()}), timeout);
  std::vector<std::string> values;
  for (Unpacker payload(all); std::cmp_less(values.size(), world_size());) values.push_back(payload.text());
  return values;
}

Store::Subscription Store::on_failure(std::function<void(const std::string& verdict)> callback) {
  return client_->listeners().add(std::move(callback));
}
std::optional<std::string> Store::failure() const { return client_->verdict(); }
void Store::fail(const std::string& why) { client_->fail(why); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal
