#include "anneal/trainer/text_table.h"

#include <algorithm>
#include <cstdio>

namespace anneal {
inline namespace v0 {

namespace {

std::vector<std::size_t> widths_of(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width(rows.front().size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  return width;
}

}  // namespace

std::string text_table(const std::vector<std::vector<std::string>>& rows, std::size_t numbers_from) {
  const std::vector<std::size_t> width = widths_of(rows);
  std::vector<std::string> lines;
  std::size_t widest = 0;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(width[i] - row[i].size(), ' ');
      line += (i > 0 ? " | " : "") + (i < numbers_from ? row[i] + space : space + row[i]);
    }
    lines.push_back(line.substr(0, line.find_last_not_of(' ') + 1));
    widest = std::max(widest, lines.back().size());
  }
  const std::string rule(widest, '-');
  lines.insert(lines.begin() + 1, rule);
  lines.push_back(rule);
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

std::string ruled_table(const std::vector<std::vector<std::string>>& rows) {
  const std::vector<std::size_t> width = widths_of(rows);
  const auto rule = [&](const char* left, const char* cross, const char* right) {
    std::string line;
    for (const std::size_t columns : width) {
      line += line.empty() ? left : cross;
      for (std::size_t i = 0; i < columns + 2; ++i) line += "─";
    }
    return line + right;
  };
  std::string text = rule("┌", "┬", "┐");
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (r == 1) text += '\n' + rule("├", "┼", "┤");
    text += '\n';
    for (std::size_t i = 0; i < width.size(); ++i)
      text += "│ " + rows[r][i] + std::string(width[i] - rows[r][i].size() + 1, ' ');
    text += "│";
  }
  return text + '\n' + rule("└", "┴", "┘");
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace v0
}  // namespace anneal
