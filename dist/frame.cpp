#include "anneal/dist/frame.h"

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

constexpr std::size_t kLength = 4, kHead = 1 + 8;

void put(std::string& to, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) to += static_cast<char>(value >> (8 * i));
}
std::uint64_t number_in(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return value;
}

}  // namespace

std::string encode(const Frame& frame) {
  std::string bytes;
  bytes.reserve(kLength + kHead + frame.payload.size());
  put(bytes, kHead + frame.payload.size(), kLength);
  put(bytes, static_cast<std::uint64_t>(frame.op), 1);
  put(bytes, frame.request, 8);
  return bytes += frame.payload;
}

std::optional<Frame> FrameReader::next() {
  const std::string_view rest = std::string_view(bytes_).substr(at_);
  if (rest.size() >= kLength) {
    const std::size_t length = number_in(rest.substr(0, kLength));
    check(length >= kHead && length <= max_frame_, "a frame of {} bytes: expected {} to {}", length, kHead, max_frame_);
    if (rest.size() - kLength >= length) {
      const auto op = static_cast<std::uint8_t>(rest[kLength]);
      check(op <= static_cast<std::uint8_t>(Op::bye), "a frame of the unknown kind {}", op);
      Frame frame{static_cast<Op>(op), number_in(rest.substr(kLength + 1, 8)),
                  std::string(rest.substr(kLength + kHead, length - kHead))};
      at_ += kLength + length;
      return frame;
    }
  }
  bytes_.erase(0, at_);
  at_ = 0;
  return {};
}

void append(std::string& payload, std::string_view text) {
  put(payload, text.size(), 4);
  payload += text;
}
void append(std::string& payload, std::int64_t number) { put(payload, static_cast<std::uint64_t>(number), 8); }

std::string_view Unpacker::take(std::size_t bytes) {
  check(bytes <= rest_.size(), "a message ends early: {} bytes were expected, {} are left", bytes, rest_.size());
  const std::string_view taken = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return taken;
}
std::string Unpacker::text() { return std::string(take(number_in(take(4)))); }
std::int64_t Unpacker::number() { return static_cast<std::int64_t>(number_in(take(8))); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal
