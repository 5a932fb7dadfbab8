#include "anneal/dist/cpu_group.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "anneal/dist/rank_order.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using Kind = Signature::Kind;

constexpr std::int64_t segment_bytes = 16 << 20;  // bounds the scratch memory of a reduction
constexpr std::int64_t line_bytes = 64;
constexpr std::chrono::seconds patience_at_the_end{10};

std::span<std::byte> bytes_of(const Tensor& tensor, std::int64_t begin, std::int64_t n) {
  const auto unit = static_cast<std::int64_t>(size_of(tensor.dtype()));
  return {static_cast<std::byte*>(tensor.raw()) + begin * unit, static_cast<std::size_t>(n * unit)};
}

std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 32)) * 0x9E3779B97F4A7C15u;
  return x ^ (x >> 29);
}

// Slots below 2^63 carry signatures. The others hash what the ranks must agree on, so that messages of different
// lengths never meet; the low bits count the phases of one collective.
constexpr int phase_bits = 8;
std::uint64_t signature_slot(std::uint64_t sequence) { return sequence; }
std::uint64_t data_slot(const Operation& operation) {
  struct Halves {
    std::uint64_t first, second;
  };
  const auto [first, second] = std::bit_cast<Halves>(operation.signature);
  const std::uint64_t hash = mixed(mixed(mixed(operation.sequence) + first) + second);
  return (hash | std::uint64_t{1} << 63) & ~((std::uint64_t{1} << phase_bits) - 1);
}

}  // namespace

class CpuGroup::Completion final : public Work::State {
 public:
  void wait() override {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return done_; });
    if (error_) throw Error(*error_);
  }
  bool done() const override {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  void end(std::optional<std::string> error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    done_ = true;
    ended_.notify_all();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::optional<std::string> error_;
};

CpuGroup::CpuGroup(int rank, int size, std::unique_ptr<Transport> transport)
    : ProcessGroup(rank, size), transport_(std::move(transport)), signatures_(static_cast<std::size_t>(size)) {
  for (int other = 0; other < size; ++other)
    if (other != rank) others_.push_back(other);
  worker_ = std::thread([this] { run(); });
}

CpuGroup::~CpuGroup() {
  drain();
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  asked_.notify_all();
  worker_.join();
}

void CpuGroup::drain() noexcept {
  bool in_time = false;
  if (std::uncaught_exceptions() == 0) {
    std::unique_lock lock(mutex_);
    in_time = drained_.wait_for(lock, patience_at_the_end, [&] { return queue_.empty(); });
  }
  if (!in_time) abort(format("rank {} left the group", rank()));
}

void CpuGroup::abort(const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    if (!why_) why_ = why;
  }
  transport_->abort(why);
}

std::optional<std::string> CpuGroup::failure() const {
  const std::lock_guard lock(mutex_);
  return why_;
}

Work CpuGroup::submit(Operation operation) {
  auto completion = std::make_shared<Completion>();
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(operation), completion});
  }
  asked_.notify_one();
  return Work(std::move(completion));
}

void CpuGroup::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Queued& next = queue_.front();  // stays where it is: others only append
    bool failed = why_.has_value();
    if (!failed) {
      lock.unlock();
      std::optional<std::string> why = attempt(next.operation);
      lock.lock();
      failed = why.has_value();
      if (failed && !why_) why_ = std::move(why);
      if (failed) transport_->abort(*why_);
    }
    std::optional<std::string> error;
    if (failed) error = next.operation.describe() + ": " + *why_;
    next.operation.output = next.operation.input = {};  // who waits finds no references of ours
    next.completion->end(std::move(error));
    queue_.pop_front();
    if (queue_.empty()) drained_.notify_all();
  }
}

std::optional<std::string> CpuGroup::attempt(const Operation& operation) noexcept {
  flights_->begin(operation);
  std::optional<std::string> why;
  try {
    execute(operation);
  } catch (const std::exception& error) {
    why = error.what();
    transport_->cancel();
  }
  flights_->end(operation.sequence, !why);
  return why;
}

void CpuGroup::execute(const Operation& operation) {
  operation_ = &operation;
  slot_ = data_slot(operation);
  post_signatures();
  const std::int64_t count = operation.signature.count;
  const int root = operation.signature.root;
  const auto unit = static_cast<std::int64_t>(size_of(operation.signature.dtype));
  Parts parts(static_cast<std::size_t>(size()));
  const auto each_part = [&](auto part) {
    for (int r = 0; r < size(); ++r) parts[static_cast<std::size_t>(r)] = part(r);
  };
  // Calls f(begin, n) for parts of [0, total).
  const auto by_segments = [&](std::int64_t total, std::int64_t most, auto f) {
    for (std::int64_t begin = 0; begin < total; begin += most) f(begin, std::min(most, total - begin));
  };
  switch (operation.signature.kind) {
    case Kind::all_reduce:
      by_segments(count, segment_bytes / unit, [&](std::int64_t segment, std::int64_t n) {
        const std::int64_t line = line_bytes / unit;
        const std::int64_t length = ((n + size() - 1) / size() + line - 1) / line * line;
        each_part([&](int r) {
          const std::int64_t begin = std::min(n, r * length);
          return bytes_of(operation.output, segment + begin, std::min(n, begin + length) - begin);
        });
        scatter(parts, parts[static_cast<std::size_t>(rank())]);
        gather(parts);
      });
      break;
    case Kind::reduce_scatter:
      by_segments(count, std::max<std::int64_t>(1, segment_bytes / unit / size()),
                  [&](std::int64_t begin, std::int64_t n) {
                    each_part([&](int r) { return bytes_of(operation.input, r * count + begin, n); });
                    scatter(parts, bytes_of(operation.output, begin, n));
                  });
      break;
    case Kind::all_gather:
      each_part([&](int r) { return bytes_of(operation.output, r * count, count); });
      if (count > 0)
        std::memmove(parts[static_cast<std::size_t>(rank())].data(), operation.input.raw(), parts[0].size());
      gather(parts);
      break;
    case Kind::broadcast: {
      const std::span<std::byte> bytes = bytes_of(operation.output, 0, count);
      if (rank() != root) receive(root, bytes);
      else
        for (const int to : others_) send(to, bytes);
      break;
    }
    case Kind::barrier: break;
  }
  wait();
}

void CpuGroup::scatter(const Parts& parts, std::span<std::byte> out) {
  const Signature& signature = operation_->signature;
  const std::span<std::byte> mine = parts[static_cast<std::size_t>(rank())];
  scratch_.resize(mine.size() * others_.size());
  std::vector<const std::byte*> pieces(parts.size(), mine.data());
  std::byte* next = scratch_.data();
  for (const int from : others_) {
    pieces[static_cast<std::size_t>(from)] = next;
    receive(from, {next, mine.size()});
    next += mine.size();
  }
  for (const int to : others_) send(to, parts[static_cast<std::size_t>(to)]);
  wait();
  reduce_in_rank_order(signature.dtype, signature.op, pieces,
                       static_cast<std::int64_t>(mine.size() / size_of(signature.dtype)), out.data());
}

void CpuGroup::gather(const Parts& parts) {
  for (const int from : others_) receive(from, parts[static_cast<std::size_t>(from)]);
  for (const int to : others_) send(to, parts[static_cast<std::size_t>(rank())]);
  wait();
}

void CpuGroup::post_signatures() {
  agreed_ = false;
  posted_ = 2 * others_.size();
  signatures_[static_cast<std::size_t>(rank())] = operation_->signature;
  const std::uint64_t slot = signature_slot(operation_->sequence);
  for (const int from : others_)
    transport_->receive(from, slot, std::as_writable_bytes(std::span(&signatures_[static_cast<std::size_t>(from)], 1)));
  for (const int to : others_) transport_->send(to, slot, std::as_bytes(std::span(&operation_->signature, 1)));
}

void CpuGroup::receive(int from, std::span<std::byte> into) {
  if (into.empty()) return;
  transport_->receive(from, slot_, into);
  ++posted_;
}

void CpuGroup::send(int to, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  transport_->send(to, slot_, bytes);
  ++posted_;
}

void CpuGroup::wait() {
  if (!agreed_) {
    transport_->wait(2 * others_.size());
    posted_ -= 2 * others_.size();
    check_signatures();
    agreed_ = true;
  }
  transport_->wait(std::exchange(posted_, 0));
  constexpr std::uint64_t phases = (std::uint64_t{1} << phase_bits) - 1;
  slot_ = (slot_ & ~phases) | ((slot_ + 1) & phases);
}

// Every rank has all signatures, and so finds the same words.
void CpuGroup::check_signatures() const {
  for (std::size_t r = 1; r < signatures_.size(); ++r)
    check(signatures_[r] == signatures_[0], "rank {} is in {}, rank 0 in {}", r,
          describe(signatures_[r], operation_->sequence), describe(signatures_[0], operation_->sequence));
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
