// The collectives of the CPU, over any transport. Private: thread_group.h and gloo_group.h make groups.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "anneal/dist/process_group.h"
#include "anneal/dist/transport.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// One thread works off one queue of collectives. Reductions are direct: every rank sends part j to rank j, which
/// reduces in rank order and sends the result to all.
class CpuGroup : public ProcessGroup {
 public:
  CpuGroup(int rank, int size, std::unique_ptr<Transport> transport);
  /// Gives what is pending a few seconds to end, unless this rank is leaving because of an exception.
  ~CpuGroup() override;

  void abort(const std::string& why) override;
  std::optional<std::string> failure() const override;

 protected:
  Work submit(Operation operation) override;
  /// What the destructor does.
  void drain() noexcept;

 private:
  class Completion;
  struct Queued {
    Operation operation;
    std::shared_ptr<Completion> completion;
  };
  // One part of a tensor for each rank.
  using Parts = std::vector<std::span<std::byte>>;

  void run();
  // Carries out one collective; the reason if it failed.
  std::optional<std::string> attempt(const Operation& operation) noexcept;
  void execute(const Operation& operation);
  // What reductions and gathers are made of: `out` becomes the reduction of all ranks' parts for this one; the part of
  // every rank comes from that rank.
  void scatter(const Parts& parts, std::span<std::byte> out);
  void gather(const Parts& parts);
  // Both phases of a collective post, then wait; the first wait also waits for the signatures that went ahead.
  void post_signatures();
  void receive(int from, std::span<std::byte> into);
  void send(int to, std::span<const std::byte> bytes);
  void wait();
  void check_signatures() const;

  const std::unique_ptr<Transport> transport_;
  std::vector<int> others_;

  mutable std::mutex mutex_;
  std::condition_variable asked_, drained_;
  std::deque<Queued> queue_;  // the first one is being worked on
  std::optional<std::string> why_;
  bool stop_ = false;

  // Of the collective at hand.
  const Operation* operation_ = nullptr;
  std::vector<Signature> signatures_;  // of all ranks
  std::size_t posted_ = 0;
  std::uint64_t slot_ = 0;
  bool agreed_ = false;
  std::vector<std::byte> scratch_;

  std::thread worker_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
