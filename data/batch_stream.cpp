#include "anneal/data/batch_stream.h"

#include "anneal/core/autograd.h"
#include "anneal/core/error.h"
#include "anneal/data/batch_pass.h"

namespace anneal {
inline namespace v0 {
namespace {

// Everything that a stream draws at one place: a function of the epoch and the batch's number.
class Draws {
 public:
  Draws(std::uint64_t seed, std::int64_t epoch, std::int64_t i) : generator_(epoch_generator(seed, epoch, i)) {}

 private:
  const NoGrad no_grad_;
  Generator generator_;
  const GeneratorScope scope_{generator_};
};

class StreamPass final : public BatchPass {
 public:
  StreamPass(const OpenStream& open, std::uint64_t seed, std::int64_t epoch, std::int64_t first, const StateMap& state)
      : seed_(seed), epoch_(epoch), index_(first - 1) {
    const Draws draws(seed, epoch, -1);
    stream_ = open(epoch);
    check(stream_ != nullptr, "data loader: the function that begins an epoch gave no stream");
    if (!state.empty()) stream_->load_state(state);
    else
      for (std::int64_t i = 0; i < first && !done_; ++i) done_ = !read(i).batch;
  }

  void advance() override {
    if (done_) return;
    current_ = {};  // its memory serves the next one
    done_ = true;   // if reading throws
    ++index_;
    current_ = ahead_ ? *std::exchange(ahead_, std::nullopt) : read(index_);
    done_ = !current_.batch;
  }
  bool done() const override { return done_; }
  bool last() override {
    if (!ahead_) ahead_ = read(index_ + 1);
    return !ahead_->batch;
  }
  Batch& current() override { return *current_.batch; }
  std::int64_t index() const override { return index_; }
  StateMap state(std::int64_t next) const override {
    if (next == index_) return current_.before;
    return ahead_ ? ahead_->before : stream_->state();
  }

 private:
  // A batch, or the end, and where the stream stood before it.
  struct Read {
    StateMap before = {};
    std::optional<Batch> batch = {};
  };

  Read read(std::int64_t i) {
    const Draws draws(seed_, epoch_, i);
    StateMap before = stream_->state();
    return {std::move(before), stream_->next()};
  }

  const std::uint64_t seed_;
  const std::int64_t epoch_;
  std::int64_t index_;
  std::unique_ptr<BatchStream> stream_;
  Read current_;
  std::optional<Read> ahead_;
  bool done_ = false;
};

class StreamSource final : public BatchSource {
 public:
  StreamSource(OpenStream open, std::uint64_t seed) : open_(std::move(open)), seed_(seed) {}

  std::int64_t size() const override { return unknown_size; }
  std::int64_t global_batch_size(std::int64_t) const override { return 0; }
  std::unique_ptr<BatchPass> begin(std::int64_t epoch, std::int64_t first, const StateMap& state) const override {
    return std::make_unique<StreamPass>(open_, seed_, epoch, first, state);
  }

 private:
  const OpenStream open_;
  const std::uint64_t seed_;
};

}  // namespace

std::shared_ptr<const BatchSource> stream_source(OpenStream open, std::uint64_t seed) {
  return std::make_shared<StreamSource>(std::move(open), seed);
}

}  // namespace v0
}  // namespace anneal
