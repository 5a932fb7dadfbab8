// Tables of text. Private.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace anneal {
inline namespace v0 {

/// The first row is the head, under which there is a rule, as at the end. Columns from `numbers_from` on are aligned to
/// the right.
std::string text_table(const std::vector<std::vector<std::string>>& rows, std::size_t numbers_from = std::string::npos);
/// The same with lines around all cells, of UTF-8; to the left.
std::string ruled_table(const std::vector<std::vector<std::string>>& rows);
/// With so many digits behind the point.
std::string fixed(double value, int digits);

}  // namespace v0
}  // namespace anneal
