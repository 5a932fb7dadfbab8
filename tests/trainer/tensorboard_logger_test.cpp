// Event files, read by a reader that shares nothing with their writer.
#include "anneal/trainer/tensorboard_logger.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
  return value;
}

// The remainder of a division of polynomials, bit by bit.
std::uint32_t crc(std::string_view bytes, std::uint32_t polynomial) {
  std::uint32_t remainder = ~0u;
  for (const char c : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const bool odd = (remainder ^ (static_cast<std::uint32_t>(static_cast<std::uint8_t>(c)) >> bit)) & 1;
      remainder = remainder >> 1 ^ (odd ? polynomial : 0);
    }
  return ~remainder;
}
std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc(bytes, 0x82f63b78u), 15) + 0xa282ead8u; }

// A message's fields by number; each is a number's bits or bytes.
struct Message {
  std::multimap<int, std::uint64_t> numbers;
  std::multimap<int, std::string> texts;

  explicit Message(std::string_view rest) {
    const auto take = [&](std::size_t n) {
      if (n > rest.size()) throw Error("a message ends too early");
      const std::string_view part = rest.substr(0, n);
      rest.remove_prefix(n);
      return part;
    };
    const auto varint = [&] {
      std::uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<std::uint8_t>(take(1)[0]);
        value |= std::uint64_t{byte & 127u} << shift;
        if (byte < 128) return value;
      }
    };
    while (!rest.empty()) {
      const std::uint64_t key = varint();
      const int field = static_cast<int>(key >> 3);
      if ((key & 7) == 0) numbers.emplace(field, varint());
      else if ((key & 7) == 1) numbers.emplace(field, little_endian(take(8)));
      else if ((key & 7) == 5) numbers.emplace(field, little_endian(take(4)));
      else if ((key & 7) == 2) texts.emplace(field, take(varint()));
      else throw Error("an unknown wire type");
    }
  }
  std::uint64_t number(int field) const { return numbers.contains(field) ? numbers.find(field)->second : 0; }
  double real(int field) const { return std::bit_cast<double>(number(field)); }
  float single(int field) const { return std::bit_cast<float>(static_cast<std::uint32_t>(number(field))); }
  std::string text(int field) const { return texts.contains(field) ? texts.find(field)->second : ""; }
  Message message(int field) const { return Message(text(field)); }
  std::vector<Message> messages(int field) const {
    std::vector<Message> all;
    for (auto [at, end] = texts.equal_range(field); at != end; ++at) all.emplace_back(at->second);
    return all;
  }
  std::vector<double> reals(int field) const {
    std::vector<double> values;
    const std::string packed = text(field);
    for (std::size_t at = 0; at < packed.size(); at += 8)
      values.push_back(std::bit_cast<double>(little_endian(std::string_view(packed).substr(at, 8))));
    return values;
  }
};

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// The events of a file, whose checksums must be right.
std::vector<Message> events_of(const fs::path& path) {
  const std::string bytes = read_text(path);
  std::string_view rest = bytes;
  std::vector<Message> events;
  while (rest.size() >= 16) {
    const auto size = static_cast<std::size_t>(little_endian(rest.substr(0, 8)));
    EXPECT_EQ(little_endian(rest.substr(8, 4)), masked_crc32c(rest.substr(0, 8)));
    if (rest.size() < size + 16) break;
    const std::string_view record = rest.substr(12, size);
    EXPECT_EQ(little_endian(rest.substr(12 + size, 4)), masked_crc32c(record));
    events.emplace_back(record);
    rest.remove_prefix(16 + size);
  }
  EXPECT_TRUE(rest.empty()) << "a torn record";
  return events;
}

// "step tag=value" of every scalar.
std::vector<std::string> scalars_of(const fs::path& path) {
  std::vector<std::string> texts;
  for (const Message& event : events_of(path))
    for (const Message& value : event.message(5).messages(1))
      if (value.numbers.contains(2))
        texts.push_back(format("{} {}={}", static_cast<std::int64_t>(event.number(2)), value.text(1), value.single(2)));
  return texts;
}
// The value of that tag.
Message value_of(const fs::path& path, const std::string& tag) {
  for (const Message& event : events_of(path))
    for (const Message& value : event.message(5).messages(1))
      if (value.text(1) == tag) return value;
  throw Error("no value " + tag);
}
using Texts = std::vector<std::string>;

MetricMap row(std::initializer_list<std::pair<const char*, double>> values) {
  MetricMap map;
  for (const auto& [name, value] : values) map.set(name, value);
  return map;
}

TEST(EventFiles, TheReadersChecksumIsCrc32c) { EXPECT_EQ(crc("123456789", 0x82f63b78u), 0xe3069283u); }

TEST(TensorBoardLogger, Scalars) {
  const TempFolder dir;
  TensorBoardLogger logger({.save_dir = dir.path(), .sub_dir = "s", .prefix = "p"});
  logger.log_metrics(row({{"loss", 0.5}, {"epoch", 0}, {"step", 3}}), 3);
  logger.log_metrics(row({{"loss", std::nan("")}, {"bad \xff", 1e9}}), 1'000'000'000'000);
  logger.finalize("success");
  EXPECT_EQ(logger.log_dir(), dir / "anneal_logs/version_0/s");
  const auto files = event_files(logger.log_dir());
  ASSERT_EQ(files.size(), 1u);
  const auto events = events_of(files[0]);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].text(3), "brain.Event:2");
  for (const Message& event : events) EXPECT_GT(event.real(1), 1.6e9);
  EXPECT_EQ(scalars_of(files[0]),
            (Texts{"3 p-loss=0.5", "3 epoch=0", "1000000000000 p-loss=nan", "1000000000000 p-bad \xEF\xBF\xBD=1e+09"}));
}

TEST(TensorBoardLogger, IsReadableWhileItIsWritten) {
  const TempFolder dir;
  TensorBoardLogger logger({.dir = dir.path(), .max_queue = 2});
  logger.log_metrics(row({{"a", 1}}), 1);
  const fs::path file = event_files(dir.path()).at(0);
  EXPECT_EQ(events_of(file).size(), 1u);  // the version
  logger.log_metrics(row({{"a", 1}}), 2);
  EXPECT_EQ(scalars_of(file), (Texts{"1 a=1", "2 a=1"}));
  logger.log_metrics(row({{"a", 1}}), 3);
  EXPECT_EQ(scalars_of(file).size(), 2u);
  logger.save();
  EXPECT_EQ(scalars_of(file).size(), 3u);

  TensorBoardLogger at_once({.dir = dir / "at_once", .flush_secs = 0});
  at_once.log_metrics(row({{"a", 1}}), 1);
  EXPECT_EQ(scalars_of(event_files(dir / "at_once").at(0)).size(), 1u);
}

TEST(TensorBoardLogger, AResumedRunAddsAFileThatVoidsWhatCameAfterTheCheckpoint) {
  const TempFolder dir;
  StateMap state;
  {
    TensorBoardLogger logger({.save_dir = dir.path()});
    logger.log_hyperparams({{"lr", 0.1}});
    logger.log_metrics(row({{"a", 1}}), 4);
    state = logger.state();
    logger.log_metrics(row({{"a", 1}}), 5);
    logger.finalize("failed");
  }
  TensorBoardLogger logger({.save_dir = dir.path()});
  logger.load_state(state);
  logger.log_hyperparams({{"lr", 0.1}});
  logger.log_metrics(row({{"a", 2}}), 5);
  logger.finalize("success");
  EXPECT_EQ(logger.version(), "0");
  const auto files = event_files(logger.log_dir());
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(scalars_of(files[0]), (Texts{"0 hp_metric=-1", "4 a=1", "5 a=1"}));
  EXPECT_EQ(scalars_of(files[1]), (Texts{"5 a=2"}));
  const Message start = events_of(files[1]).at(1);
  EXPECT_EQ(start.number(2), 5u);                  // this step and later ones
  EXPECT_EQ(start.message(7).number(1), 1u);       // SessionLog.START
  logger.load_state({{"rows", std::int64_t{1}}});  // another logger's
}

TEST(TensorBoardLogger, Text) {
  const TempFolder dir;
  TensorBoardLogger logger({.dir = dir.path()});
  logger.log_text("notes", "# Title\ntext", 7);
  logger.save();
  const Message value = value_of(event_files(dir.path()).at(0), "notes");
  EXPECT_EQ(value.message(9).message(1).text(1), "text");  // the plugin
  const Message tensor = value.message(8);
  EXPECT_EQ(tensor.number(1), 7u);  // DT_STRING
  EXPECT_EQ(tensor.message(2).message(2).number(1), 1u);
  EXPECT_EQ(tensor.text(8), "# Title\ntext");
}

TEST(TensorBoardLogger, HyperParameters) {
  const TempFolder dir;
  TensorBoardLogger logger({.dir = dir.path()});
  logger.log_hyperparams({{"lr", 0.1}, {"layers", 3}});
  logger.log_hyperparams(
      {{"optimizer", "adam"}, {"nesterov", true}, {"lr", 0.2}, {"sizes", std::vector<std::int64_t>{1, 2}}});
  logger.finalize("failed");
  const fs::path file = event_files(dir.path()).at(0);
  std::vector<Message> starts;
  for (const Message& event : events_of(file))
    for (const Message& value : event.message(5).messages(1))
      if (value.text(1) == "_hparams_/session_start_info") starts.push_back(value);
  ASSERT_EQ(starts.size(), 1u);  // TensorBoard reads no other
  EXPECT_EQ(starts[0].message(9).message(1).text(1), "hparams");
  std::map<std::string, Message> values;
  const Message start = starts[0].message(9).message(1).message(2).message(3);
  for (const Message& entry : start.messages(1)) values.emplace(entry.text(1), entry.message(2));
  ASSERT_EQ(values.size(), 5u);
  EXPECT_EQ(values.at("lr").real(2), 0.2);
  EXPECT_EQ(values.at("layers").real(2), 3);
  EXPECT_EQ(values.at("optimizer").text(3), "adam");
  EXPECT_EQ(values.at("nesterov").number(4), 1u);
  EXPECT_EQ(values.at("sizes").text(3), "[1, 2]");
  EXPECT_GT(start.real(5), 1.6e9);
  const Message end = value_of(file, "_hparams_/session_end_info").message(9).message(1).message(2).message(4);
  EXPECT_EQ(end.number(1), 2u);  // STATUS_FAILURE
  EXPECT_EQ(scalars_of(file), Texts{"0 hp_metric=-1"});

  TensorBoardLogger without({.dir = dir / "without", .default_hp_metric = false});
  without.log_hyperparams({{"lr", 0.1}});
  without.finalize("success");
  EXPECT_EQ(scalars_of(event_files(dir / "without").at(0)), Texts{});
}

TEST(TensorBoardLogger, Histograms) {
  const TempFolder dir;
  TensorBoardLogger logger({.dir = dir.path()});
  const Tensor values = tensor({-1.0, 0.0, 0.0, 3.0, std::nan(""), std::numeric_limits<double>::infinity()});
  logger.log_histogram("h", values.reshape({2, 3}).set_requires_grad(), 1);
  logger.log_histogram("same", full({5}, 2.0, {.dtype = DType::bf16}), 1);
  logger.log_histogram("wide", tensor({-1e308, 1e308}, {.dtype = DType::f64}), 1);
  logger.log_histogram("none", full({2}, std::nan("")), 1);
  logger.save();
  const fs::path file = event_files(dir.path()).at(0);
  const Message h = value_of(file, "h").message(5);
  EXPECT_EQ(h.real(1), -1);
  EXPECT_EQ(h.real(2), 3);
  EXPECT_EQ(h.real(3), 4);
  EXPECT_EQ(h.real(4), 2);
  EXPECT_EQ(h.real(5), 10);
  const auto limits = h.reals(6), counts = h.reals(7);
  ASSERT_EQ(limits.size(), 64u);
  ASSERT_EQ(counts.size(), 64u);
  EXPECT_TRUE(std::is_sorted(limits.begin(), limits.end()));
  EXPECT_EQ(limits.back(), 3);
  EXPECT_EQ(counts.front(), 1);
  EXPECT_EQ(counts.back(), 1);
  EXPECT_EQ(counts[16], 2);  // the bin that begins with 0
  const Message same = value_of(file, "same").message(5);
  EXPECT_EQ(same.reals(6), std::vector<double>{2});
  EXPECT_EQ(same.reals(7), std::vector<double>{5});
  const auto wide = value_of(file, "wide").message(5).reals(7);
  EXPECT_EQ(wide.front() + wide.back(), 2);
  EXPECT_THROW(value_of(file, "none"), Error);
}

TEST(TensorBoardLogger, Images) {
  const TempFolder dir;
  TensorBoardLogger logger({.dir = dir.path()});
  Tensor image = zeros({3, 2, 1});
  image.select(0, 0).fill_(1.0);
  image.select(0, 2).fill_(0.2);
  logger.log_image("image", image, 1);
  logger.log_image("large", full({1, 300, 300}, 7, {.dtype = DType::u8}), 1);
  EXPECT_THROW(logger.log_image("bad", zeros({2, 3, 3}), 1), Error);
  EXPECT_THROW(logger.log_image("bad", zeros({3, 3}), 1), Error);
  EXPECT_THROW(logger.log_image("bad", zeros({1, 3, 3}, {.dtype = DType::i64}), 1), Error);
  logger.save();
  const auto pixels_of = [&](const std::string& tag, std::uint64_t height, std::uint64_t width,
                             std::uint64_t channels) {
    const Message content = value_of(event_files(dir.path()).at(0), tag).message(4);
    EXPECT_EQ(content.number(1), height);
    EXPECT_EQ(content.number(2), width);
    EXPECT_EQ(content.number(3), channels);
    const std::string png = content.text(4);
    EXPECT_TRUE(png.starts_with("\x89PNG\r\n\x1a\n"));
    std::string data;
    const auto big_endian = [&](std::size_t at) {
      std::string four = png.substr(at, 4);
      std::reverse(four.begin(), four.end());
      return static_cast<std::size_t>(little_endian(four));
    };
    for (std::size_t at = 8; at < png.size(); at += 12 + big_endian(at)) {
      const std::size_t size = big_endian(at);
      EXPECT_EQ(big_endian(at + 8 + size), crc(std::string_view(png).substr(at + 4, 4 + size), 0xedb88320u));
      if (png.substr(at + 4, 4) == "IDAT") data = png.substr(at + 8, size);
    }
    std::string pixels;  // with a 0 before each row
    for (std::size_t at = 2, last = 0; !last;) {
      last = static_cast<std::size_t>(data[at]);
      const auto size = static_cast<std::size_t>(little_endian(data.substr(at + 1, 2)));
      EXPECT_EQ(little_endian(data.substr(at + 3, 2)), 65535 - size);
      pixels += data.substr(at + 5, size);
      at += 5 + size;
    }
    return pixels;
  };
  EXPECT_EQ(pixels_of("image", 2, 1, 3), std::string("\0\xff\0\x33\0\xff\0\x33", 8));
  std::string rows;
  for (int y = 0; y < 300; ++y) rows += '\0' + std::string(300, '\7');
  EXPECT_EQ(pixels_of("large", 300, 300, 1), rows);
}

TEST(TensorBoardLogger, LogsARun) {
  const TempFolder dir;
  TrainerOptions options = quiet({.max_epochs = 1, .log_every_n_steps = 1});
  options.logger = TensorBoardLogger({.save_dir = dir.path()});
  Trainer trainer(options);
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    step.log("a", static_cast<double>(step.batch_idx()));
  };
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(scalars_of(event_files(dir / "anneal_logs/version_0").at(0)),
            (Texts{"0 hp_metric=-1", "1 a=0", "1 epoch=0", "2 a=1", "2 epoch=0"}));
}

}  // namespace
}  // namespace anneal_test
