// What a progress bar's line says.
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

/// How the parts of a RichProgressBar look: the numbers of a terminal's "select graphic rendition", such as "1" (bold),
/// "2" (dim), "32" (green) or "38;5;208" (the 208th of 256 colours), joined by ";".
struct RichProgressBarTheme {
  std::string description = "1";
  std::string progress_bar = "32", progress_bar_rest = "90";
  std::string batch_progress = "0";
  std::string time = "2", processing_speed = "2";
  std::string metric_names = "2", metrics = "0", nan = "31";
};

/// Three significant digits, padded to five characters: 1.230. Large and small ones with an exponent; nan.
std::string metric_text(double value);

/// "Validation: 3/3 [00:00, 719.34it/s, loss=1.230]"
std::string plain_line(const Bar& bar);
/// "Epoch 0:  80%|########  | 4/5 [00:00<00:00, 719.34it/s, loss=1.230]", in so many columns: where they are few the
/// bar gives way first, then the items at the end.
std::string drawn_line(const Bar& bar, std::size_t columns);
/// With colours: "Epoch 0  ━━━━━━━━━━  4/5  00:00 < 00:00  719.34it/s", and the items "loss: 1.230  acc: 0.500".
std::string rich_line(const Bar& bar, const RichProgressBarTheme& theme, std::size_t columns);
std::string rich_items(const Bar& bar, const RichProgressBarTheme& theme, std::size_t columns);

}  // namespace v0
}  // namespace anneal
