#include <cstdlib>
#include <set>

#include "anneal/core/error.h"
#include "anneal/dist/slurm.h"
#include "anneal/dist/store_state.h"
#include "anneal/tests/fuzz/fuzz.h"

using namespace anneal::dist;

namespace {

constexpr std::string_view kToken = "secret";

/// One rank that behaves, and one connection that sends the bytes in pieces: whatever they are, each answer is a frame
/// that goes to a connection which is open, and the first rank learns of all that the second does to the group.
void serve(std::string_view bytes) {
  std::set<int> open{0, 1};
  FrameReader heard;
  StoreState state({.world_size = 2,
                    .token = std::string(kToken),
                    .failure_timeout = std::chrono::seconds(10),
                    .send =
                        [&](int to, const Frame& frame) {
                          if (!open.contains(to)) std::abort();
                          if (to == 0) heard.feed(encode(frame));
                        },
                    .close =
                        [&](int connection) {
                          if (open.erase(connection) != 1) std::abort();
                        }});
  AwakeClock::Time now{};
  const auto hello = encode({Op::hello, 0, pack("anneal store", 1, kToken, 0, 2, 10000, "good", 1)});
  for (const int connection : {0, 1}) state.opened(connection, now);
  state.received(0, hello, now);
  state.received(0, encode({Op::exchange, 1, pack("all", "mine", 1000)}), now);
  for (std::size_t at = 0, piece = 1; at < bytes.size() && open.contains(1); at += piece, piece = piece * 3 % 101 + 1) {
    now += std::chrono::milliseconds(100);
    state.received(1, bytes.substr(at, piece), now);
    if (open.contains(0)) state.received(0, encode({}), now);
    state.tick(now);
  }
  if (open.contains(1)) state.closed(1);
  bool verdict = false;
  while (const std::optional<Frame> frame = heard.next()) verdict = verdict || frame->op == Op::verdict;
  if (verdict != !state.verdict().empty()) std::abort();
}

void parse_slurm(std::string_view text) {
  try {
    if (first_host(text).empty()) std::abort();
  } catch (const anneal::Error&) {}
  try {
    tasks_on_node(text, 3);
  } catch (const anneal::Error&) {}
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  serve(bytes);
  // As one that has come in already: mutations seldom leave the token as it is.
  serve(encode({Op::hello, 0, pack("anneal store", 1, kToken, 1, 2, 10000, "fuzz", 2)}).append(bytes));
  parse_slurm(bytes);
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      encode({Op::hello, 0, pack("anneal store", 1, kToken, 1, 2, 10000, "host", 2)}),
      encode({Op::set, 1, pack("key", "value")}) + encode({Op::get, 2, pack("key", 1000)}) + encode({}),
      encode({Op::get, 3, pack("later", 50)}) + encode({Op::set, 4, pack("later", "5")}) +
          encode({Op::add, 5, pack("later", -7)}),
      encode({Op::exchange, 6, pack("all", "yours", 1000)}) + encode({Op::bye, 0, {}}),
      encode({Op::fail, 0, "why"}),
      encode({Op::lost, 0, "rank 0 stopped responding"}),
      "node[08-10,12],gpu1",
      "2(x3),1",
  };
}
