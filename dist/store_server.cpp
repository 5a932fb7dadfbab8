#include "anneal/dist/store_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <thread>

#include "anneal/core/error.h"
#include "anneal/dist/socket.h"
#include "anneal/dist/store_state.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMaxUnsent = 16 << 20;  // for one who asks and does not read
constexpr auto kFarewell = std::chrono::seconds(1);

}  // namespace

/// The sockets' side of the server; StoreState decides.
class StoreServer::Loop {
 public:
  explicit Loop(const StoreServerOptions& options)
      : most_peers_(4 * static_cast<std::size_t>(options.world_size)),
        interval_(beat_interval(options.failure_timeout)),
        listener_(listen_at(options.address, options.port, options.world_size + 128)),
        state_({.world_size = options.world_size,
                .token = options.token,
                .failure_timeout = options.failure_timeout,
                .send = [this](int peer, const Frame& frame) { send(peer, frame); },
                .close = [this](int peer) { peers_.at(peer).closing = true; }}) {
    check(epoll_.get() >= 0 && stop_.get() >= 0, "store: no descriptors left for the server");
    watch(listener_.get(), kListener, EPOLLIN, EPOLL_CTL_ADD);
    watch(stop_.get(), kStop, EPOLLIN, EPOLL_CTL_ADD);
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() {
    ::eventfd_write(stop_.get(), 1);
    thread_.join();
  }

  std::uint16_t port() const { return port_of(listener_.get()); }

 private:
  static constexpr int kListener = -1, kStop = -2;  // beside the numbers of peers

  struct Peer {
    Stream stream;
    bool closing = false;  // once all has been sent
    bool writing = false;  // epoll tells when more can be sent
  };

  void run() {
    try {
      AwakeClock clock(4 * interval_);
      AwakeClock::Time next_tick = clock.now();
      while (!wait(clock, interval_)) {
        if (const auto now = clock.now(); now >= next_tick) {
          state_.tick(now);
          watch(listener_.get(), kListener, EPOLLIN, EPOLL_CTL_MOD);
          next_tick = now + interval_;
        }
        flush();
      }
      state_.bye();
      flush();
      for (auto& [number, peer] : peers_) peer.stream.finish();
      for (const auto end = clock.now() + kFarewell; !peers_.empty() && clock.now() < end; flush())
        wait(clock, interval_);
    } catch (const std::exception&) {
      // No memory left: all ranks see the connection close, which is this rank's failure.
    }
    peers_.clear();
  }

  /// Handles what happens within the time; true when it is time to stop.
  bool wait(AwakeClock& clock, milliseconds limit) {
    std::array<epoll_event, 64> events;
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), static_cast<int>(limit.count()));
    const AwakeClock::Time now = clock.now();
    bool stop = false;
    for (int i = 0; i < count; ++i) {
      const int number = events[static_cast<std::size_t>(i)].data.fd;
      if (number == kListener) accept(now);
      else if (number == kStop) stop = true;
      else receive(number, now);
    }
    if (stop)
      for (const int fd : {stop_.get(), listener_.get()}) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    return stop;
  }

  void accept(AwakeClock::Time now) {
    while (std::optional<FileDescriptor> socket = accept_from(listener_)) {
      if (peers_.size() >= most_peers_) continue;
      const int number = next_number_++;
      watch(socket->get(), number, EPOLLIN, EPOLL_CTL_ADD);
      peers_.emplace(number, Peer{Stream(std::move(*socket))});
      state_.opened(number, now);
    }
    // Out of descriptors, those who wait would wake this thread without end: the next tick looks again.
    if (errno == EMFILE || errno == ENFILE) watch(listener_.get(), kListener, 0, EPOLL_CTL_MOD);
  }

  void receive(int number, AwakeClock::Time now) {
    const auto found = peers_.find(number);
    if (found == peers_.end()) return;
    if (std::optional<std::string> bytes = found->second.stream.read()) {
      if (!found->second.closing) state_.received(number, *bytes, now);
    } else {
      state_.closed(number);
      peers_.erase(found);
    }
  }

  void send(int number, const Frame& frame) {
    Stream& stream = peers_.at(number).stream;
    // Who has not read the last beat needs no other.
    if (frame.op != Op::beat || stream.unsent() == 0) stream.send(encode(frame));
  }

  void flush() {
    for (auto it = peers_.begin(); it != peers_.end();) {
      auto& [number, peer] = *it;
      const bool alive = peer.stream.flush();
      const bool more = peer.stream.unsent() > 0;
      if (!alive) state_.closed(number);
      if (peer.stream.unsent() > kMaxUnsent) state_.expel(number, "more requests than it reads answers");
      if (!alive || (peer.closing && (!more || peer.stream.unsent() > kMaxUnsent))) {
        it = peers_.erase(it);
        continue;
      }
      if (more != peer.writing) watch(peer.stream.get(), number, more ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
      peer.writing = more;
      ++it;
    }
  }

  void watch(int fd, int number, std::uint32_t events, int operation) {
    epoll_event event{.events = events, .data = {.fd = number}};
    ::epoll_ctl(epoll_.get(), operation, fd, &event);
  }

  std::size_t most_peers_;
  milliseconds interval_;
  FileDescriptor listener_;
  FileDescriptor epoll_{::epoll_create1(EPOLL_CLOEXEC)};
  FileDescriptor stop_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::map<int, Peer> peers_;  // by number; numbers are not used again
  int next_number_ = 0;
  StoreState state_;
  std::thread thread_;
};

StoreServer::StoreServer(StoreServerOptions options) {
  check<ConfigError>(options.world_size > 0, "world_size: {}; must be positive", options.world_size);
  check<ConfigError>(options.failure_timeout.count() >= 0, "failure_timeout: {} ms; must not be negative",
                     options.failure_timeout.count());
  loop_ = std::make_unique<Loop>(options);
}
StoreServer::~StoreServer() = default;

std::uint16_t StoreServer::port() const { return loop_->port(); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal
