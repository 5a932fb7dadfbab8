#include "anneal/dist/thread_group.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <optional>

#include "anneal/dist/cpu_group.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

// A message that waits for its receiver, who copies it from the sender's memory.
struct Letter {
  enum class State { waiting, copying, taken };

  int from, to;
  std::uint64_t slot;
  std::span<const std::byte> bytes;
  State state = State::waiting;
};

// What the ranks share.
struct PostOffice {
  explicit PostOffice(int n) : left(static_cast<std::size_t>(n), false) {}

  std::mutex mutex;
  std::condition_variable changed;
  std::list<Letter> letters;
  std::vector<bool> left;
  std::optional<std::string> why;
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(int rank, std::shared_ptr<PostOffice> office, std::chrono::milliseconds timeout)
      : rank_(rank), timeout_(timeout), office_(std::move(office)) {}
  ~ThreadTransport() override {
    cancel();
    const std::lock_guard lock(office_->mutex);
    office_->left[static_cast<std::size_t>(rank_)] = true;
    office_->changed.notify_all();
  }

  void receive(int from, std::uint64_t slot, std::span<std::byte> into) override {
    posts_.push_back({from, slot, into, {}});
  }

  void send(int to, std::uint64_t slot, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(office_->mutex);
    if (office_->why) throw Error(*office_->why);
    office_->letters.push_back({rank_, to, slot, bytes});
    posts_.push_back({to, slot, {}, std::prev(office_->letters.end())});
    office_->changed.notify_all();
  }

  void wait(std::size_t n) override {
    for (; n > 0; --n) {
      const Post& post = posts_.front();
      if (post.letter) wait_taken(post);
      else take(post);
      posts_.pop_front();
    }
  }

  void cancel() noexcept override {
    std::unique_lock lock(office_->mutex);
    for (const Post& post : posts_) {
      if (!post.letter) continue;
      office_->changed.wait(lock, [&] { return (*post.letter)->state != Letter::State::copying; });
      office_->letters.erase(*post.letter);
    }
    posts_.clear();
  }

  void abort(const std::string& why) override {
    const std::lock_guard lock(office_->mutex);
    if (!office_->why) office_->why = why;
    office_->changed.notify_all();
  }

 private:
  struct Post {
    int peer;
    std::uint64_t slot;
    std::span<std::byte> into;                          // of a message to receive
    std::optional<std::list<Letter>::iterator> letter;  // of a message to send
  };

  template <class F>
  void wait_until(std::unique_lock<std::mutex>& lock, int peer, F ready) {
    const bool in_time = office_->changed.wait_for(
        lock, timeout_, [&] { return ready() || office_->why || office_->left[static_cast<std::size_t>(peer)]; });
    check(in_time, "rank {} did not come within {} s", peer, std::chrono::duration<double>(timeout_).count());
    if (ready()) return;
    if (office_->why) throw Error(*office_->why);
    throw Error(format("rank {} left the group", peer));
  }

  void wait_taken(const Post& post) {
    std::unique_lock lock(office_->mutex);
    wait_until(lock, post.peer, [&] { return (*post.letter)->state == Letter::State::taken; });
    office_->letters.erase(*post.letter);
  }

  void take(const Post& post) {
    std::unique_lock lock(office_->mutex);
    auto letter = office_->letters.end();
    wait_until(lock, post.peer, [&] {
      letter = std::find_if(office_->letters.begin(), office_->letters.end(), [&](const Letter& l) {
        return l.from == post.peer && l.to == rank_ && l.slot == post.slot && l.state == Letter::State::waiting;
      });
      return letter != office_->letters.end();
    });
    letter->state = Letter::State::copying;
    lock.unlock();
    std::memcpy(post.into.data(), letter->bytes.data(), post.into.size());
    lock.lock();
    letter->state = Letter::State::taken;
    office_->changed.notify_all();
  }

  const int rank_;
  const std::chrono::milliseconds timeout_;
  const std::shared_ptr<PostOffice> office_;
  std::deque<Post> posts_;
};

}  // namespace

std::vector<std::shared_ptr<ProcessGroup>> thread_group(int n, std::chrono::milliseconds collective_timeout) {
  const auto office = std::make_shared<PostOffice>(n);
  std::vector<std::shared_ptr<ProcessGroup>> group;
  for (int rank = 0; rank < n; ++rank)
    group.push_back(
        std::make_shared<CpuGroup>(rank, n, std::make_unique<ThreadTransport>(rank, office, collective_timeout)));
  return group;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
