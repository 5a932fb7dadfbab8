// A rank's connection to the store, the control plane of training on several ranks: small values by key, who is alive,
// and one verdict on who is not. It carries no tensors.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct StoreOptions {
  std::string host = "127.0.0.1";  ///< where the StoreServer listens: a name or an address
  std::uint16_t port = 0;
  int rank = 0;
  int world_size = 1;
  std::string token = {};  ///< must equal the server's
  /// How long a failure may stay unseen; equal on all ranks and the server. Silence of 0.6 times this is a failure;
  /// 0 = silence never is.
  std::chrono::milliseconds failure_timeout = std::chrono::seconds(10);
  /// How long to wait for the server to appear.
  std::chrono::milliseconds rendezvous_timeout = std::chrono::minutes(5);
};

/// Some rank failed. The text is the verdict, the same on all ranks that hear it from the server:
/// "rank 1 (node3, pid 712) died", "... stopped responding for 6.0 s" or "... failed: <why>".
class RankFailure : public Error {
 public:
  using Error::Error;
};

/// One rank's connection to the StoreServer. A thread of its own sends heartbeats, and listens. Every function may be
/// called from any thread; after a verdict each of them throws it as RankFailure, unless it says otherwise.
///
/// A process of LocalRanks that still lives `failure_timeout` after a verdict is ended by this class, with the verdict
/// on stderr and exit code 76: it hangs in something that cannot be woken.
class Store {
 public:
  using Milliseconds = std::chrono::milliseconds;
  /// While this lives the callback may be called; its end waits for a call in progress on another thread.
  using Subscription = std::shared_ptr<void>;

  static constexpr std::size_t kMaxKey = 1024;                // bytes
  static constexpr std::size_t kMaxValue = (1 << 20) - 4096;  // bytes; of an exchange: all ranks' values together

  /// Connects, and tries again until `rendezvous_timeout`. Throws Error naming host and port: nobody answers, another
  /// program does, or the server refuses (token, world size, a rank that is taken, an earlier verdict).
  explicit Store(StoreOptions options);
  /// Takes leave, which is no failure; while an exception unwinds the stack, fails. After a verdict just closes.
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  int rank() const;
  int world_size() const;

  void set(const std::string& key, std::string_view value);
  /// Waits until some rank has set the key. Throws Error naming the key, and the ranks that have not come, after
  /// `timeout`.
  std::string get(const std::string& key, Milliseconds timeout);
  /// Adds to a number kept as decimal text, 0 at first; returns the sum.
  std::int64_t add(const std::string& key, std::int64_t delta);
  /// All ranks' values in rank order, once every rank has called this with the same name: an all-gather of small
  /// values, and a barrier. A name may be used again. Throws Error naming the missing ranks after `timeout`, or at
  /// once when one of them has left.
  std::vector<std::string> exchange(const std::string& name, std::string_view mine, Milliseconds timeout);

  /// Calls back once, from the listening thread, as soon as there is a verdict; at once, from here, if there is one.
  /// Does not throw. The callback must not throw.
  [[nodiscard]] Subscription on_failure(std::function<void(const std::string& verdict)> callback);
  /// The verdict, if there is one. Does not throw.
  std::optional<std::string> failure() const;
  /// This rank gives up: the verdict on all ranks, here too, is "rank R (host, pid P) failed: why" if it is the first.
  /// Returns when the server and the listeners here have heard it. Does not throw.
  void fail(const std::string& why);

  /// The numeric address of this connection's own end, which is on the route to the others.
  const std::string& local_address() const;

 private:
  class Client;
  std::unique_ptr<Client> client_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
