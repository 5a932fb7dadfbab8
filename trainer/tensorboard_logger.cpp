#include "anneal/trainer/tensorboard_logger.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/error.h"
#include "anneal/core/ops.h"
#include "anneal/trainer/log_format.h"
#include "anneal/trainer/png.h"
#include "anneal/trainer/proto_message.h"

namespace anneal {
inline namespace v0 {
namespace {

// Field numbers and values of TensorBoard's and TensorFlow's public definitions.
namespace event {  // Event, event.proto
constexpr int wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7;
}
namespace session_log {  // SessionLog, event.proto
constexpr int status = 1, start = 1;
}
namespace summary {  // Summary, Summary.Value, Summary.Image, summary.proto
constexpr int value = 1;
constexpr int tag = 1, simple_value = 2, image = 4, histogram = 5, tensor = 8, metadata = 9;
constexpr int image_height = 1, image_width = 2, image_colorspace = 3, image_encoded = 4;
}  // namespace summary
namespace metadata {  // SummaryMetadata and its PluginData, summary.proto
constexpr int plugin_data = 1, plugin_name = 1, content = 2;
}
namespace histogram {  // HistogramProto, histogram.proto
constexpr int min = 1, max = 2, num = 3, sum = 4, sum_squares = 5, bucket_limit = 6, bucket = 7;
}
namespace tensor {  // TensorProto, tensor.proto; TensorShapeProto and its Dim, tensor_shape.proto; DataType,
                    // types.proto
constexpr int dtype = 1, shape = 2, string_val = 8, dim = 2, dim_size = 1, dt_float = 1, dt_string = 7;
}
namespace hparams {  // HParamsPluginData, plugin_data.proto; SessionStartInfo and SessionEndInfo; Status, api.proto
constexpr int session_start = 3, session_end = 4;
constexpr int start_hparams = 1, start_time = 5, end_status = 1, end_time = 2, success = 1, failure = 2;
constexpr int key = 1, value = 2;                                  // of a map's entries
constexpr int number_value = 2, string_value = 3, bool_value = 4;  // google.protobuf.Value, struct.proto
}  // namespace hparams

ProtoMessage named(std::string_view name) { return ProtoMessage().bytes(summary::tag, valid_utf8(name)); }

ProtoMessage plugin(std::string_view name, std::string_view content = {}) {
  return ProtoMessage().message(metadata::plugin_data,
                                ProtoMessage().bytes(metadata::plugin_name, name).bytes(metadata::content, content));
}

// One dimension.
ProtoMessage tensor_shape(std::int64_t size) {
  return ProtoMessage().message(tensor::dim, ProtoMessage().integer(tensor::dim_size, size));
}

ProtoMessage scalar(std::string_view name, double value) {
  return named(name).single(summary::simple_value, static_cast<float>(value));
}

// The plugin's data is in the metadata; the value is an empty tensor.
ProtoMessage hparams_value(std::string_view name, int field, const ProtoMessage& content) {
  const ProtoMessage empty =
      ProtoMessage().integer(tensor::dtype, tensor::dt_float).message(tensor::shape, tensor_shape(0));
  return named(name)
      .message(summary::metadata, plugin("hparams", ProtoMessage().message(field, content).text()))
      .message(summary::tensor, empty);
}

struct HParamValue {
  ProtoMessage operator()(bool value) const { return ProtoMessage().integer(hparams::bool_value, value); }
  ProtoMessage operator()(std::int64_t value) const { return (*this)(static_cast<double>(value)); }
  ProtoMessage operator()(double value) const { return ProtoMessage().real(hparams::number_value, value); }
  ProtoMessage operator()(const std::string& value) const {
    return ProtoMessage().bytes(hparams::string_value, valid_utf8(value));
  }
  template <class T>
  ProtoMessage operator()(const std::vector<T>& value) const {
    return ProtoMessage().bytes(hparams::string_value, to_json(HParam(value)));
  }
};

ProtoMessage histogram_of(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return {};
  constexpr std::size_t most_bins = 64;
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  const double low = *least, high = *greatest;
  const std::size_t bins = low < high ? most_bins : 1;
  std::vector<double> limits(bins, high), counts(bins);
  for (std::size_t b = 0; b + 1 < bins; ++b) limits[b] = std::lerp(low, high, static_cast<double>(b + 1) / most_bins);
  double sum = 0, squares = 0;
  for (const double value : values) {
    const auto at = std::upper_bound(limits.begin(), limits.end() - 1, value);
    ++counts[static_cast<std::size_t>(at - limits.begin())];
    sum += value;
    squares += value * value;
  }
  return ProtoMessage()
      .real(histogram::min, low)
      .real(histogram::max, high)
      .real(histogram::num, static_cast<double>(values.size()))
      .real(histogram::sum, sum)
      .real(histogram::sum_squares, squares)
      .reals(histogram::bucket_limit, limits)
      .reals(histogram::bucket, counts);
}

}  // namespace

void TensorBoardLogger::log_metrics(const MetricMap& metrics, std::int64_t step) {
  ProtoMessage summary;
  for (const auto& [name, value] : prefixed(options_.prefix, metrics))
    if (name != "step") summary.message(summary::value, scalar(name, value));
  write(step, summary);
}

void TensorBoardLogger::log_hyperparams(const HParams& hparams) {
  merge(hparams_, hparams);
  hparams_due_ = true;
}

// TensorBoard goes by the first event with hyper-parameters: it waits for all that come before the first row.
void TensorBoardLogger::write_hparams() {
  if (!std::exchange(hparams_due_, false)) return;
  ProtoMessage start;
  for (const auto& [name, value] : hparams_)
    start.message(
        hparams::start_hparams,
        ProtoMessage().bytes(hparams::key, valid_utf8(name)).message(hparams::value, std::visit(HParamValue(), value)));
  start.real(hparams::start_time, wall_time());
  ProtoMessage summary;
  summary.message(summary::value, hparams_value("_hparams_/session_start_info", hparams::session_start, start));
  if (options_.default_hp_metric && !resumed_) summary.message(summary::value, scalar("hp_metric", -1));
  write(0, summary);
}

void TensorBoardLogger::log_text(std::string_view name, std::string_view text, std::int64_t step) {
  const ProtoMessage content = ProtoMessage()
                                   .integer(tensor::dtype, tensor::dt_string)
                                   .message(tensor::shape, tensor_shape(1))
                                   .bytes(tensor::string_val, valid_utf8(text));
  write(step,
        ProtoMessage().message(
            summary::value, named(name).message(summary::metadata, plugin("text")).message(summary::tensor, content)));
}

void TensorBoardLogger::log_histogram(std::string_view name, const Tensor& values, std::int64_t step) {
  const NoGrad no_grad;
  const ProtoMessage content = histogram_of(values.detach().to(Device{}).to_vector());
  if (content.text().empty()) return;
  write(step, ProtoMessage().message(summary::value, named(name).message(summary::histogram, content)));
}

void TensorBoardLogger::log_image(std::string_view name, const Tensor& image, std::int64_t step) {
  const bool bytes = image.dtype() == DType::u8;
  check(image.rank() == 3 && (image.size(0) == 1 || image.size(0) == 3 || image.size(0) == 4) && image.numel() > 0 &&
            (bytes || is_floating(image.dtype())),
        "log_image: expected [C, H, W] of 1, 3 or 4 channels, u8 or floating, got {} of {}", image.shape(),
        name_of(image.dtype()));
  const NoGrad no_grad;
  const std::vector<double> values = image.detach().to(Device{}).permute({1, 2, 0}).to_vector();
  std::vector<std::uint8_t> pixels;
  pixels.reserve(values.size());
  for (const double value : values)  // NaN is black
    pixels.push_back(static_cast<std::uint8_t>(std::lround(bytes       ? value
                                                           : value > 0 ? std::min(value, 1.0) * 255
                                                                       : 0)));
  const ProtoMessage content =
      ProtoMessage()
          .integer(summary::image_height, image.size(1))
          .integer(summary::image_width, image.size(2))
          .integer(summary::image_colorspace, image.size(0))
          .bytes(summary::image_encoded, png(pixels, image.size(1), image.size(2), static_cast<int>(image.size(0))));
  write(step, ProtoMessage().message(summary::value, named(name).message(summary::image, content)));
}

void TensorBoardLogger::save() {
  write_hparams();
  if (!file_) return;
  file_->flush();
  flushed_ = std::chrono::steady_clock::now();
}

void TensorBoardLogger::finalize(std::string_view status) {
  if (!hparams_.empty()) {
    const ProtoMessage end =
        ProtoMessage()
            .integer(hparams::end_status, status == "success" ? hparams::success : hparams::failure)
            .real(hparams::end_time, wall_time());
    write(0, ProtoMessage().message(summary::value,
                                    hparams_value("_hparams_/session_end_info", hparams::session_end, end)));
  }
  save();
}

void TensorBoardLogger::write(std::int64_t step, const ProtoMessage& summary) {
  open();
  write_hparams();
  write_event(step, event::summary, summary);
  last_step_ = std::max(last_step_, step);
  const std::chrono::duration<double> age = std::chrono::steady_clock::now() - flushed_;
  if (file_->held() >= options_.max_queue || age.count() >= options_.flush_secs) save();
}

void TensorBoardLogger::write_event(std::int64_t step, int field, const ProtoMessage& content) {
  file_->append(
      ProtoMessage().real(event::wall_time, wall_time()).integer(event::step, step).message(field, content).text());
}

void TensorBoardLogger::open() {
  if (file_) return;
  file_.emplace(log_dir());
  file_->append(ProtoMessage().real(event::wall_time, wall_time()).bytes(event::file_version, "brain.Event:2").text());
  // A start in the midst of a run: TensorBoard forgets what it read of this step and later ones.
  if (resumed_)
    write_event(last_step_ + 1, event::session_log, ProtoMessage().integer(session_log::status, session_log::start));
  file_->flush();
  flushed_ = std::chrono::steady_clock::now();
}

StateMap TensorBoardLogger::state() {
  save();
  return {{"folder", folder_->state()}, {"last_step", last_step_}};
}

void TensorBoardLogger::load_state(const StateMap& state) {
  if (!state.contains("last_step")) return;  // of another logger: the list of loggers has changed
  file_.reset();
  folder_->load_state(std::get<std::string>(state.at("folder")));
  last_step_ = std::get<std::int64_t>(state.at("last_step"));
  resumed_ = true;
}

}  // namespace v0
}  // namespace anneal
