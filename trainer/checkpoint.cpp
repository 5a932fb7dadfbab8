#include "anneal/trainer/checkpoint.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <string_view>

#include "anneal/core/error.h"
#include "anneal/core/safetensors.h"
#include "anneal/core/version.h"
#include "anneal/trainer/checkpoint_json.h"

namespace anneal {
inline namespace v0 {

using nlohmann::json;

namespace {

constexpr int format_version = 2;
constexpr std::string_view optimizer_prefix = "optimizer.", accumulation_prefix = "accumulation.",
                           generator_prefix = "generator.", scaler_prefix = "scaler.";

bool is_reserved(std::string_view name) {
  return name.starts_with(optimizer_prefix) || name.starts_with(accumulation_prefix) ||
         name.starts_with(generator_prefix) || name.starts_with(scaler_prefix);
}

// FNV-1a over words of eight bytes, the last one filled up with zeros.
std::string checksum(const Tensor& tensor) {
  const Tensor x = tensor.to(Device{}).contiguous();
  const auto* bytes = static_cast<const std::byte*>(x.raw());
  const std::size_t size = static_cast<std::size_t>(x.numel()) * size_of(x.dtype());
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i, std::min<std::size_t>(8, size - i));
    hash = (hash ^ word) * 0x100000001b3;
    hash ^= hash >> 29;
  }
  return std::to_string(hash);
}

// The extra section that a tensor of the file belongs to, or null.
const std::string* extra_of(const Checkpoint& c, std::string_view name) {
  const auto it = c.extra.find(std::string(name.substr(0, name.find('.'))));
  return it == c.extra.end() || name.find('.') == std::string_view::npos ? nullptr : &it->first;
}

}  // namespace

std::string to_text(const StateMap& state) { return to_json(state).dump(); }
StateMap state_from(const std::string& text) { return to_state(json::parse(text)); }

void save_checkpoint(const std::filesystem::path& path, const Checkpoint& c) {
  std::vector<NamedTensor> tensors = c.model;
  for (const NamedTensor& entry : tensors)
    check(!is_reserved(entry.name) && !extra_of(c, entry.name),
          "{}: {} cannot be saved: its first name is one of the checkpoint's own", path.string(), entry.name);
  for (std::size_t i = 0; i < c.optimizers.size(); ++i)
    for (const NamedTensor& entry : c.optimizers[i].state)
      tensors.push_back({format("{}{}.{}", optimizer_prefix, i, entry.name), entry.tensor});
  for (const NamedTensor& entry : c.accumulation)
    tensors.push_back({std::string(accumulation_prefix) + entry.name, entry.tensor});
  for (const NamedTensor& entry : c.scaler) tensors.push_back({std::string(scaler_prefix) + entry.name, entry.tensor});
  for (const auto& [section, entries] : c.extra)
    for (const NamedTensor& entry : entries) tensors.push_back({section + "." + entry.name, entry.tensor});
  const Tensor generator = empty({2}, {.dtype = DType::i64});
  generator.data<std::int64_t>()[0] = std::bit_cast<std::int64_t>(c.generator.seed());
  generator.data<std::int64_t>()[1] = std::bit_cast<std::int64_t>(c.generator.offset());
  tensors.push_back({std::string(generator_prefix) + "train", generator});

  json j{{"format_version", format_version},
         {"anneal_version", version},
         {"weights_only", c.weights_only},
         {"epoch", c.counters.epoch.completed},
         {"global_step", c.counters.global_step},
         {"seed", c.seed},
         {"precision", c.precision},
         {"time", c.time},
         {"ranks", c.ranks},
         {"loops", to_json(c.counters)},
         {"loader",
          {{"size", c.loader.size},
           {"batch_size", c.loader.batch_size},
           {"seed", c.loader.seed},
           {"stream", to_json(c.loader.stream)}}},
         {"logging", to_json(c.logging)},
         {"user", to_json(c.user)},
         {"datamodule", to_json(c.data)},
         {"hyper_parameters", hparams_json(c.hparams)},
         {"datamodule_hyper_parameters", hparams_json(c.data_hparams)},
         {"given", hparams_json(c.given)},
         {"extra", json::array()},
         {"optimizers", json::array()},
         {"loggers", json::array()},
         {"callbacks", json::object()},
         {"checksums", json::object()}};
  for (const NamedTensor& entry : tensors) j["checksums"][entry.name] = checksum(entry.tensor);
  for (const Checkpoint::Optimizer& optimizer : c.optimizers) j["optimizers"].push_back(to_json(optimizer));
  for (const auto& [section, entries] : c.extra) j["extra"].push_back(section);
  for (const StateMap& logger : c.loggers) j["loggers"].push_back(to_json(logger));
  for (const auto& [key, state] : c.callbacks) j["callbacks"][key] = to_json(state);
  try {
    save_safetensors(path, tensors, {{"anneal", j.dump()}, {"format", "anneal"}});
  } catch (const json::exception& error) {
    throw Error(format("{}: a callback's state is not text: {}", path.string(), error.what()));
  }
}

Checkpoint load_checkpoint(const std::filesystem::path& path) {
  SafetensorsFile file = load_safetensors(path);
  const auto found = file.metadata.find("anneal");
  check(found != file.metadata.end(), "{}: not a checkpoint: the metadata has no entry anneal", path.string());
  Checkpoint c;
  try {
    const json j = json::parse(found->second);
    const int version = j.at("format_version");
    check(version == format_version, "its format version is {}, this library reads {}", version, format_version);
    const json checksums = j.value("checksums", json::object());
    for (const NamedTensor& entry : file.tensors)
      check(!checksums.contains(entry.name) || checksums[entry.name] == checksum(entry.tensor),
            "the data of {} is not what was written", entry.name);
    c.weights_only = j.value("weights_only", false);
    c.seed = j.at("seed");
    c.precision = j.value("precision", "");
    c.time = j.value("time", 0.0);
    c.ranks = j.value("ranks", 1);
    c.counters = to_counters(j.at("loops"));
    const json& loader = j.at("loader");
    c.loader = {loader.at("size"), loader.at("batch_size"), loader.at("seed"),
                to_state(loader.value("stream", json::object()))};
    c.logging = to_logging(j.at("logging"));
    c.user = to_state(j.at("user"));
    c.data = to_state(j.value("datamodule", json::object()));
    c.hparams = to_hparams(j.value("hyper_parameters", json::array()));
    c.data_hparams = to_hparams(j.value("datamodule_hyper_parameters", json::array()));
    c.given = to_hparams(j.value("given", json::array()));
    for (const json& optimizer : j.at("optimizers")) c.optimizers.push_back(to_optimizer(optimizer));
    for (const json& section : j.at("extra")) c.extra[section.get<std::string>()];
    for (const json& logger : j.at("loggers")) c.loggers.push_back(to_state(logger));
    for (const auto& [key, state] : j.at("callbacks").items()) c.callbacks[key] = to_state(state);

    const Tensor* generator = file.find("generator.train");
    check(generator && generator->dtype() == DType::i64 && generator->numel() == 2,
          "generator.train is missing or not two i64");
    const auto words = generator->span<std::int64_t>();
    c.generator = Generator(std::bit_cast<std::uint64_t>(words[0]), std::bit_cast<std::uint64_t>(words[1]));
    for (NamedTensor& entry : file.tensors) {
      const std::string_view name = entry.name;
      if (name.starts_with(generator_prefix)) continue;
      if (name.starts_with(accumulation_prefix)) {
        c.accumulation.push_back({std::string(name.substr(accumulation_prefix.size())), entry.tensor});
      } else if (name.starts_with(scaler_prefix)) {
        c.scaler.push_back({std::string(name.substr(scaler_prefix.size())), entry.tensor});
      } else if (name.starts_with(optimizer_prefix)) {
        const std::string_view rest = name.substr(optimizer_prefix.size());
        const std::size_t dot = rest.find('.');
        std::size_t index = c.optimizers.size();
        std::from_chars(rest.data(), rest.data() + std::min(dot, rest.size()), index);
        check(dot != std::string_view::npos && index < c.optimizers.size(), "unexpected tensor {}", name);
        c.optimizers[index].state.push_back({std::string(rest.substr(dot + 1)), entry.tensor});
      } else if (const std::string* section = extra_of(c, name)) {
        c.extra[*section].push_back({std::string(name.substr(section->size() + 1)), entry.tensor});
      } else {
        c.model.push_back(std::move(entry));
      }
    }
  } catch (const json::exception& error) {
    throw Error(format("{}: not a checkpoint, or a damaged one: {}", path.string(), error.what()));
  } catch (const Error& error) {
    throw Error(format("{}: not a checkpoint, or a damaged one: {}", path.string(), error.what()));
  }
  return c;
}

}  // namespace v0
}  // namespace anneal
