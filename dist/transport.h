// How the ranks of a CpuGroup reach each other. Private.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace anneal {
inline namespace v0 {
namespace dist {

/// Messages between ranks. A message meets the one that was posted on the other side with the same slot; both must have
/// the same length. One thread posts and waits; `abort` may come from any.
class Transport {
 public:
  virtual ~Transport() = default;

  /// Return at once; the memory must stay until `wait` or `cancel`. Throw Error when the transport cannot go on.
  virtual void receive(int from, std::uint64_t slot, std::span<std::byte> into) = 0;
  virtual void send(int to, std::uint64_t slot, std::span<const std::byte> bytes) = 0;
  /// Waits until the oldest `n` messages that are still posted have come or gone. Throws Error: aborted, a rank was
  /// lost, or did not come in time.
  virtual void wait(std::size_t n) = 0;
  /// Forgets what is posted: its memory is not touched any more.
  virtual void cancel() noexcept = 0;
  /// Makes everything throw Error(why). The first reason stays.
  virtual void abort(const std::string& why) = 0;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
