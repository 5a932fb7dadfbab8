// The server behind every rank's Store: keys and values, heartbeats, and the verdict.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace anneal {
inline namespace v0 {
namespace dist {

struct StoreServerOptions {
  std::string address = "127.0.0.1";  ///< where to listen: a name or an address of this machine, IPv4 or IPv6
  std::uint16_t port = 0;             ///< 0 = any free one, see port()
  int world_size = 1;
  std::string token = {};  ///< who does not bring it is turned away
  /// See StoreOptions.
  std::chrono::milliseconds failure_timeout = std::chrono::seconds(10);
};

/// Listens in one thread from construction to destruction; lives in rank 0, and must outlive rank 0's own Store. The
/// traffic is not encrypted: use it on networks you trust.
///
/// The first failure decides the verdict, and all ranks hear it; what follows from it changes nothing, and who comes
/// back later hears it too. Connections are limited in number (4 times the ranks), in the time until they present the
/// token (5 s) and in what they may store (100,000 keys, 64 MiB).
class StoreServer {
 public:
  /// Throws Error naming address and port when it cannot listen there.
  explicit StoreServer(StoreServerOptions options);
  /// Tells all ranks that the store closes, which is no failure, and waits a second at most for them to hear it.
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  std::uint16_t port() const;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
