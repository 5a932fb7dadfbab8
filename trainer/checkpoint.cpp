#include "anneal/trainer/checkpoint.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <string_view>

#include "anneal/core/error.h"
#include "anneal/core/safetensors.h"
#include "anneal/trainer/checkpoint_json.h"

namespace anneal {
inline namespace v0 {

namespace {

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

  Checksums checksums;
  for (const NamedTensor& entry : tensors) checksums[entry.name] = checksum(entry.tensor);
  const std::string metadata = [&] {
    try {
      return to_metadata(c, checksums);
    } catch (const Error& error) { throw Error(format("{}: {}", path.string(), error.what())); }
  }();
  save_safetensors(path, tensors, {{"anneal", metadata}, {"format", "anneal"}});
}

Checkpoint load_checkpoint(const std::filesystem::path& path) {
  SafetensorsFile file = load_safetensors(path);
  const auto found = file.metadata.find("anneal");
  check(found != file.metadata.end(), "{}: not a checkpoint: the metadata has no entry anneal", path.string());
  Checkpoint c;
  try {
    const Checksums checksums = read_metadata(found->second, c);
    for (const NamedTensor& entry : file.tensors) {
      const auto written = checksums.find(entry.name);
      check(written == checksums.end() || written->second == checksum(entry.tensor),
            "the data of {} is not what was written", entry.name);
    }

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
  } catch (const Error& error) {
    throw Error(format("{}: not a checkpoint, or a damaged one: {}", path.string(), error.what()));
  }
  return c;
}

}  // namespace v0
}  // namespace anneal
