#include "anneal/trainer/bar_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::size_t bar_width = 10, rich_width = 30;

template <class... A>
std::string text(const char* pattern, A... args) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, pattern, args...);
  return buffer;
}

std::string clock_time(double seconds) {
  const auto s = static_cast<long long>(seconds);
  if (s < 3600) return text("%02lld:%02lld", s / 60, s % 60);
  return text("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

double share_of(const Bar& bar) {
  return bar.total > 0 ? std::min(1.0, static_cast<double>(bar.done) / static_cast<double>(bar.total)) : 0;
}
std::string count(const Bar& bar) {
  return std::to_string(bar.done) + "/" + (bar.total < 0 ? "?" : std::to_string(bar.total));
}
std::string time_left(const Bar& bar) {
  if (bar.rate <= 0 || bar.total < 0) return "?";
  return clock_time(static_cast<double>(bar.total - bar.done) / bar.rate);
}
std::string rate_text(const Bar& bar) {
  return bar.rate >= 1 || bar.rate == 0 ? text("%.2fit/s", bar.rate) : text("%.2fs/it", 1 / bar.rate);
}

std::string tail(const Bar& bar, const std::string& left) {
  std::string s = count(bar) + " [" + clock_time(bar.seconds) + left + ", " + rate_text(bar);
  for (const auto& [name, value] : bar.items) s += ", " + name + "=" + value;
  return s + "]";
}

std::size_t columns_of(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(utf8, [](char c) { return (c & 0xc0) != 0x80; }));
}

// A line of styled pieces, which takes no more columns than there are.
class Styled {
 public:
  explicit Styled(std::size_t columns) : left_(columns) {}
  // A piece that does not fit ends the line.
  void add(std::string_view style, std::string_view piece) {
    const std::size_t columns = columns_of(piece);
    if (columns > left_) left_ = 0;
    if (left_ == 0) return;
    left_ -= columns;
    text_.append("\x1b[").append(style).append("m").append(piece).append("\x1b[0m");
  }
  std::string take() && { return std::move(text_); }

 private:
  std::size_t left_;
  std::string text_;
};

std::string repeated(std::string_view piece, std::size_t times) {
  std::string s;
  for (std::size_t i = 0; i < times; ++i) s += piece;
  return s;
}

}  // namespace

std::string metric_text(double value) {
  if (std::isnan(value)) return "nan";
  std::string s = text("%.3g", value);
  if (s.find_first_of("einf") != std::string::npos) return s;
  if (s.find('.') == std::string::npos) s += '.';
  while (s.size() < 5) s += '0';
  return s;
}

std::string plain_line(const Bar& bar) { return bar.title + ": " + tail(bar, ""); }

std::string drawn_line(const Bar& bar, std::size_t columns) {
  const double share = share_of(bar);
  const std::string begin = bar.title + ": " + (bar.total < 0 ? "" : text("%3d%%", static_cast<int>(share * 100)));
  const std::string end = tail(bar, "<" + time_left(bar));
  std::size_t width = bar_width;
  if (const std::size_t rest = begin.size() + end.size() + 3; rest + width > columns)
    width = columns > rest ? columns - rest : 0;
  const auto full = static_cast<std::size_t>(share * static_cast<double>(width));
  std::string line = begin + "|" + std::string(full, '#') + std::string(width - full, ' ') + "| " + end;
  if (width == 0) line = begin + " " + end;
  line.resize(std::min(line.size(), columns));
  return line;
}

std::string rich_line(const Bar& bar, const RichProgressBarTheme& theme, std::size_t columns) {
  Styled line(columns);
  line.add(theme.description, bar.title + "  ");
  const std::size_t width = std::min(rich_width, columns / 4);
  const auto full = static_cast<std::size_t>(share_of(bar) * static_cast<double>(width));
  line.add(theme.progress_bar, repeated("━", full));
  line.add(theme.progress_bar_rest, repeated("━", width - full));
  line.add(theme.batch_progress, "  " + count(bar));
  line.add(theme.time, "  " + clock_time(bar.seconds) + " < " + time_left(bar));
  line.add(theme.processing_speed, "  " + rate_text(bar));
  return std::move(line).take();
}

std::string rich_items(const Bar& bar, const RichProgressBarTheme& theme, std::size_t columns) {
  Styled line(columns);
  for (const auto& [name, value] : bar.items) {
    line.add(theme.metric_names, "  " + name + ": ");
    line.add(value == "nan" ? theme.nan : theme.metrics, value);
  }
  return std::move(line).take();
}

}  // namespace v0
}  // namespace anneal
