// What a progress bar's line says. Private.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace anneal {
inline namespace v0 {

/// How far a loop is.
struct Bar {
  std::string title;
  std::int64_t done = 0, total = 0;  ///< batches; a total of -1: nobody knows
  double seconds = 0;                ///< since it began
  double rate = 0;                   ///< batches a second
  /// The standard items, then the metrics, in order.
  std::vector<std::pair<std::string, std::string>> items;
};

/// Three significant digits, padded to five characters: 1.230. Large and small ones with an exponent; nan.
std::string metric_text(double value);

/// "Validation: 3/3 [00:00, 719.34it/s, loss=1.230]"
std::string plain_line(const Bar& bar);
/// "Epoch 0:  80%|########  | 4/5 [00:00<00:00, 719.34it/s, loss=1.230]", in so many columns: where they are few the
/// bar gives way first, then the items at the end.
std::string drawn_line(const Bar& bar, std::size_t columns);
/// With colours: "Epoch 0  ━━━━━━━━━━  4/5  00:00 < 00:00  719.34it/s", and the items "loss: 1.230  acc: 0.500".
std::string rich_line(const Bar& bar, std::size_t columns);
std::string rich_items(const Bar& bar, std::size_t columns);

}  // namespace v0
}  // namespace anneal
