#include "anneal/dist/slurm.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

/// Reads a text from its start, and names it in errors.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool skip(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) { require(skip(c), std::string("'") + c + "'"); }
  std::string_view until(std::string_view stops) {
    return take(std::min(text_.find_first_of(stops, at_), text_.size()));
  }
  std::string_view digits() {
    const std::size_t end = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
    require(end > at_, "a number");
    return take(end);
  }
  std::int64_t number() {
    const std::size_t from = at_;
    const std::string_view text = digits();
    std::int64_t value = 0;
    const auto [_, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    at_ = error == std::errc() ? at_ : from;
    require(error == std::errc(), "a number in range");
    return value;
  }
  void require(bool condition, const std::string& what) const {
    check(condition, "'{}': expected {} at character {}", text_.substr(0, 200), what, at_ + 1);
  }

 private:
  std::string_view take(std::size_t end) {
    const std::size_t from = std::exchange(at_, end);
    return text_.substr(from, end - from);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

constexpr std::size_t kMaxText = 1 << 20, kMaxHost = 255;

}  // namespace

std::string first_host(std::string_view node_list) {
  check(node_list.size() <= kMaxText, "a node list of {} bytes; at most {}", node_list.size(), kMaxText);
  Scanner scan(node_list);
  std::string first;
  do {
    std::string host;
    while (!scan.done() && scan.peek() != ',') {
      host += scan.until("[],");
      if (scan.peek() == ',' || scan.done()) break;
      scan.expect('[');
      std::string_view low;
      do {
        const std::string_view number = scan.digits();
        if (low.empty()) low = number;
        if (scan.skip('-')) scan.digits();
      } while (scan.skip(','));
      scan.expect(']');
      host += low;
    }
    scan.require(!host.empty(), "a host");
    scan.require(host.size() <= kMaxHost, "a shorter host name");
    if (first.empty()) first = host;
  } while (scan.skip(','));
  return first;
}

std::int64_t tasks_on_node(std::string_view tasks_per_node, std::int64_t node) {
  check(tasks_per_node.size() <= kMaxText, "a list of tasks of {} bytes; at most {}", tasks_per_node.size(), kMaxText);
  Scanner scan(tasks_per_node);
  do {
    const std::int64_t tasks = scan.number();
    std::int64_t times = 1;
    if (scan.skip('(')) {
      scan.expect('x');
      times = scan.number();
      scan.expect(')');
    }
    if (node < times) return tasks;
    node -= times;
  } while (scan.skip(','));
  scan.require(false, "as many nodes as there are");
  return 0;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
