// The store's messages as bytes: u32 length | u8 op | u64 request | payload, little-endian; the length counts all that
// follows it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace dist {

enum class Op : std::uint8_t {
  hello,     // client: magic, version, token, rank, world size, failure time-out in ms, host, pid
  welcome,   // server: magic, version
  refuse,    // server: magic, why
  set,       // client: key, value
  get,       // client: key, time-out in ms
  add,       // client: key, delta
  exchange,  // client: name, value, time-out in ms
  done,      // server: what was asked for
  error,     // server: why not
  beat,      // both: I live
  fail,      // client: why it gives up
  lost,      // client: its verdict on the server
  verdict,   // server: who failed
  bye        // both: a clean end
};

struct Frame {
  Op op = Op::beat;
  std::uint64_t request = 0;  // a reply carries its request's
  std::string payload;
};

inline constexpr std::string_view kMagic = "anneal store";
inline constexpr std::int64_t kVersion = 1;
inline constexpr std::size_t kMaxFrame = 1 << 20;  // bytes after the length
inline constexpr std::size_t kMaxHello = 4096;     // the same for one who has not presented the token

std::string encode(const Frame& frame);

/// Cuts a stream of bytes into frames.
class FrameReader {
 public:
  explicit FrameReader(std::size_t max_frame = kMaxFrame) : max_frame_(max_frame) {}

  void limit(std::size_t max_frame) { max_frame_ = max_frame; }
  void feed(std::string_view bytes) { bytes_ += bytes; }
  /// The next frame, if all of it is there. Throws Error for a length over the limit and an unknown op.
  std::optional<Frame> next();

 private:
  std::size_t max_frame_;
  std::string bytes_;
  std::size_t at_ = 0;  // before it all has been read
};

/// A payload is a sequence of texts (u32 length and bytes) and numbers (i64).
void append(std::string& payload, std::string_view text);
void append(std::string& payload, std::int64_t number);
template <class... Fields>
std::string pack(const Fields&... fields) {
  std::string payload;
  (append(payload, fields), ...);
  return payload;
}

/// Reads a payload. Throws Error where the payload is too short.
class Unpacker {
 public:
  explicit Unpacker(std::string_view payload) : rest_(payload) {}

  std::string text();
  std::int64_t number();

 private:
  std::string_view take(std::size_t bytes);

  std::string_view rest_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
