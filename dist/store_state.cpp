#include "anneal/dist/store_state.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/dist/store.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMaxKeys = 100'000, kMaxBytes = 64 << 20;
constexpr int kMaxWaits = 1024;  // of one connection
constexpr auto kHelloLimit = std::chrono::seconds(5);

/// Takes the same time wherever they differ.
bool equal_tokens(std::string_view expected, std::string_view came) {
  unsigned difference = expected.size() != came.size();
  for (std::size_t i = 0; i < came.size(); ++i)
    difference |= static_cast<unsigned char>(came[i] ^ (expected.empty() ? '\0' : expected[i % expected.size()]));
  return difference == 0;
}

/// "rank 1", "ranks 1, 2 and 3 more"; empty for none.
std::string ranks_text(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(ranks.size(), kShown); ++i)
    text += format(i == 0 ? "{}{}" : ", {}{}", i == 0 ? (ranks.size() == 1 ? "rank " : "ranks ") : "", ranks[i]);
  if (ranks.size() > kShown) text += format(" and {} more", ranks.size() - kShown);
  return text;
}

std::string checked_key(std::string key) {
  check(key.size() <= Store::kMaxKey, "a key of {} bytes: at most {}", key.size(), Store::kMaxKey);
  return key;
}

}  // namespace

milliseconds beat_interval(milliseconds failure_timeout) {
  constexpr milliseconds kLongest(250);
  return failure_timeout.count() == 0 ? kLongest : std::clamp(failure_timeout / 40, milliseconds(1), kLongest);
}
milliseconds silence_limit(milliseconds failure_timeout) {
  return failure_timeout.count() == 0 ? milliseconds(std::chrono::hours(24 * 365 * 100)) : failure_timeout * 6 / 10;
}
std::string seconds_text(milliseconds time) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", static_cast<double>(time.count()) / 1000);
  return text;
}

AwakeClock::Time AwakeClock::now() {
  const Time real = std::chrono::steady_clock::now();
  now_ += std::min(real - seen_, longest_pause_);
  seen_ = real;
  return now_;
}

StoreState::StoreState(Options options) : options_(std::move(options)) {
  members_.resize(static_cast<std::size_t>(options_.world_size));
}

void StoreState::opened(int connection, Time now) { connections_[connection].heard = now; }

void StoreState::received(int connection, std::string_view bytes, Time now) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  FrameReader& reader = found->second.reader;
  found->second.heard = now;
  reader.feed(bytes);
  try {
    while (std::optional<Frame> frame = reader.next())
      if (!handle(connection, *frame, now)) return;
  } catch (const Error& error) { expel(connection, error.what()); }
}

bool StoreState::handle(int connection, const Frame& frame, Time now) {
  const int rank = connections_.at(connection).rank;
  if (rank < 0) {
    check(frame.op == Op::hello, "no hello");
    hello(connection, frame);
    return connections_.contains(connection);
  }
  Unpacker payload(frame.payload);
  // After a verdict nobody is answered: all have heard it, and leave.
  if (!verdict_.empty() && frame.op != Op::bye) return true;
  switch (frame.op) {
    case Op::beat: break;
    case Op::set: {
      std::string key = checked_key(payload.text());
      set(key, payload.text());
      options_.send(connection, {Op::done, frame.request, {}});
      break;
    }
    case Op::get: {
      const std::string key = checked_key(payload.text());
      get(wait_for(connection, frame, payload.number(), now), key);
      break;
    }
    case Op::add: {
      const std::string key = checked_key(payload.text());
      const std::int64_t delta = payload.number();
      try {
        options_.send(connection, {Op::done, frame.request, pack(add(key, delta))});
      } catch (const ConfigError& error) { options_.send(connection, {Op::error, frame.request, error.what()}); }
      break;
    }
    case Op::exchange: {
      const std::string name = checked_key(payload.text());
      std::string value = payload.text();
      exchange(wait_for(connection, frame, payload.number(), now), rank, name, std::move(value));
      break;
    }
    case Op::fail: decide(format("{} failed: {}", member_text(rank), frame.payload)); break;
    case Op::lost: decide(frame.payload); break;
    case Op::bye: leave(connection); return false;
    default: throw Error(format("a message of kind {}, which servers send", static_cast<int>(frame.op)));
  }
  return true;
}

void StoreState::hello(int connection, const Frame& frame) {
  Unpacker payload(frame.payload);
  check(payload.text() == kMagic, "no hello");
  const std::int64_t version = payload.number();
  if (!equal_tokens(options_.token, payload.text())) return refuse(connection, "the token is another one");
  if (version != kVersion)
    return refuse(connection, format("version {} of the store's protocol; this is {}", version, kVersion));
  const std::int64_t rank = payload.number(), world = payload.number(), timeout = payload.number();
  std::string host = payload.text();
  const std::int64_t pid = payload.number();
  if (world != options_.world_size)
    return refuse(connection, format("a world size of {}; the store's is {}", world, options_.world_size));
  if (rank < 0 || rank >= world) return refuse(connection, format("rank {} of {}", rank, world));
  if (timeout != options_.failure_timeout.count())
    return refuse(connection, format("a failure time-out of {}; the store's is {}", seconds_text(milliseconds(timeout)),
                                     seconds_text(options_.failure_timeout)));
  if (!verdict_.empty()) {
    options_.send(connection, {Op::verdict, 0, verdict_});
    return closed(connection), options_.close(connection);
  }
  Member& member = members_[static_cast<std::size_t>(rank)];
  if (member.state == Member::here)
    return refuse(connection, format("{} is here already", member_text(static_cast<int>(rank))));
  member = {Member::here, std::move(host), pid};
  connections_.at(connection).rank = static_cast<int>(rank);
  connections_.at(connection).reader.limit(kMaxFrame);
  options_.send(connection, {Op::welcome, 0, pack(kMagic, kVersion)});
}

void StoreState::refuse(int connection, const std::string& why) {
  options_.send(connection, {Op::refuse, 0, pack(kMagic, why)});
  connections_.erase(connection);
  options_.close(connection);
}

void StoreState::closed(int connection) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  const int rank = found->second.rank;
  connections_.erase(found);
  if (rank >= 0) decide(member_text(rank) + " died");
}

void StoreState::expel(int connection, const std::string& why) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  if (found->second.rank >= 0) decide(format("{} failed: the store got {}", member_text(found->second.rank), why));
  connections_.erase(connection);
  options_.close(connection);
}

void StoreState::leave(int connection) {
  members_[static_cast<std::size_t>(connections_.at(connection).rank)].state = Member::left;
  connections_.erase(connection);
  options_.close(connection);
  std::vector<std::string> names;
  for (const auto& [name, parts] : exchanges_) names.push_back(name);
  for (const std::string& name : names) give_up_if_left(name);
}

void StoreState::bye() {
  for (const auto& [connection, _] : connections_) options_.send(connection, {Op::bye, 0, {}});
  connections_.clear();
}

void StoreState::set(const std::string& key, std::string value) {
  const auto [place, is_new] = values_.try_emplace(key);
  check(values_.size() <= kMaxKeys, "more than {} keys", kMaxKeys);
  occupy(value.size() + (is_new ? key.size() : 0));
  bytes_ -= place->second.size();
  place->second = std::move(value);
  if (auto waits = gets_.extract(key))
    for (const Wait& wait : waits.mapped()) answer(wait, Op::done, place->second);
}

void StoreState::get(const Wait& wait, const std::string& key) {
  const auto found = values_.find(key);
  if (found != values_.end()) return answer(wait, Op::done, found->second);
  gets_[key].push_back(wait);
}

std::int64_t StoreState::add(const std::string& key, std::int64_t delta) {
  std::int64_t sum = 0;
  if (const auto found = values_.find(key); found != values_.end()) {
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), sum);
    check<ConfigError>(error == std::errc() && end == text.data() + text.size(), "store: '{}' holds no number", key);
  }
  check<ConfigError>(!__builtin_add_overflow(sum, delta, &sum), "store: '{}' overflows", key);
  set(key, std::to_string(sum));
  return sum;
}

void StoreState::exchange(const Wait& wait, int rank, const std::string& name, std::string value) {
  occupy(value.size());
  Exchange& parts = exchanges_[name];
  if (parts.contains(rank)) {
    bytes_ -= value.size();
    return answer(wait, Op::error, format("store: rank {} is in the exchange '{}' already", rank, name));
  }
  parts[rank] = {std::move(value), wait};
  give_back_if_complete(name);
  give_up_if_left(name);
}

void StoreState::give_back_if_complete(const std::string& name) {
  if (exchanges_.at(name).size() < members_.size()) return;
  const Exchange parts = std::move(exchanges_.extract(name).mapped());
  std::size_t size = 0;
  for (const auto& [rank, part] : parts) size += part.value.size();
  bytes_ -= size;
  std::string payload;
  for (const auto& [rank, part] : parts) append(payload, part.value);
  const bool fits = payload.size() + 64 <= kMaxFrame;
  if (!fits) payload = format("store: the exchange '{}' is of {} bytes: at most {}", name, size, Store::kMaxValue);
  for (const auto& [rank, part] : parts) answer(part.wait, fits ? Op::done : Op::error, payload);
}

void StoreState::give_up_if_left(const std::string& name) {
  const auto found = exchanges_.find(name);
  if (found == exchanges_.end()) return;
  std::vector<int> left;
  for (int rank = 0; rank < options_.world_size; ++rank)
    if (members_[static_cast<std::size_t>(rank)].state == Member::left && !found->second.contains(rank))
      left.push_back(rank);
  if (left.empty()) return;
  const Exchange parts = std::move(exchanges_.extract(found).mapped());
  for (const auto& [rank, part] : parts) {
    bytes_ -= part.value.size();
    answer(part.wait, Op::error, format("store: exchange '{}': {} left without it", name, ranks_text(left)));
  }
}

void StoreState::give_up_waits(Time now) {
  const auto over = [&](const Wait& wait) { return now >= wait.until; };
  const auto waited = [](const Wait& wait) {
    return seconds_text(std::chrono::duration_cast<milliseconds>(wait.until - wait.from));
  };
  for (auto& entry : gets_)
    std::erase_if(entry.second, [&](const Wait& wait) {
      if (!over(wait)) return false;
      answer(wait, Op::error, format("store: nobody set '{}' within {}{}", entry.first, waited(wait), absent_text()));
      return true;
    });
  std::erase_if(gets_, [](const auto& entry) { return entry.second.empty(); });
  for (auto& exchange : exchanges_) {
    std::vector<int> missing;
    for (int rank = 0; rank < options_.world_size; ++rank)
      if (!exchange.second.contains(rank)) missing.push_back(rank);
    std::erase_if(exchange.second, [&](const auto& entry) {
      const Part& part = entry.second;
      if (!over(part.wait)) return false;
      bytes_ -= part.value.size();
      answer(part.wait, Op::error,
             format("store: exchange '{}': {} did not come within {}{}", exchange.first, ranks_text(missing),
                    waited(part.wait), absent_text()));
      return true;
    });
  }
  std::erase_if(exchanges_, [](const auto& entry) { return entry.second.empty(); });
}

void StoreState::tick(Time now) {
  give_up_waits(now);
  std::vector<int> strangers;
  for (const auto& [number, connection] : connections_) {
    if (connection.rank < 0) {
      if (now - connection.heard >= kHelloLimit) strangers.push_back(number);
      continue;
    }
    options_.send(number, {});
    const milliseconds limit = silence_limit(options_.failure_timeout);
    if (now - connection.heard >= limit)
      decide(format("{} stopped responding for {}", member_text(connection.rank), seconds_text(limit)));
  }
  for (const int number : strangers) expel(number, "no hello");
}

StoreState::Wait StoreState::wait_for(int connection, const Frame& frame, std::int64_t timeout, Time now) {
  constexpr std::int64_t kYear = std::int64_t{365} * 24 * 3600 * 1000;
  check(++connections_.at(connection).waits <= kMaxWaits, "more than {} requests at a time", kMaxWaits);
  return {connection, frame.request, now, now + milliseconds(std::clamp<std::int64_t>(timeout, 0, kYear))};
}

void StoreState::answer(const Wait& wait, Op op, std::string payload) {
  const auto found = connections_.find(wait.connection);
  if (found == connections_.end()) return;
  --found->second.waits;
  options_.send(wait.connection, {op, wait.request, std::move(payload)});
}

void StoreState::occupy(std::size_t bytes) {
  check(bytes_ + bytes <= kMaxBytes, "values of more than {} bytes in all", kMaxBytes);
  bytes_ += bytes;
}

void StoreState::decide(const std::string& verdict) {
  constexpr std::size_t kLongest = 1 << 16;
  if (!verdict_.empty()) return;
  verdict_ = verdict.substr(0, kLongest);
  for (const auto& [number, connection] : connections_)
    if (connection.rank >= 0) options_.send(number, {Op::verdict, 0, verdict_});
}

std::string StoreState::member_text(int rank) const {
  const Member& member = members_[static_cast<std::size_t>(rank)];
  return format("rank {} ({}, pid {})", rank, member.host, member.pid);
}

std::string StoreState::absent_text() const {
  std::vector<int> absent;
  for (std::size_t rank = 0; rank < members_.size(); ++rank)
    if (members_[rank].state == Member::absent) absent.push_back(static_cast<int>(rank));
  if (absent.empty()) return {};
  return format("; {} {} not connected", ranks_text(absent), absent.size() == 1 ? "has" : "have");
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
