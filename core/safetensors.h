// The safetensors file format: named tensors and a string map, readable by every other tool that knows it.
//
//   8 bytes: n, little-endian | n bytes: JSON of names, dtypes, shapes, offsets | the elements, little-endian, no gaps
//
// Our dtypes are its F32 F64 F16 BF16 I64 I32 U8 BOOL; elements are kept to the bit.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/core/named_tensor.h"

namespace anneal {
inline namespace v0 {

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;

  /// The tensor of that name, or null.
  const Tensor* find(std::string_view name) const;
};

/// Writes a file, tensors with larger elements first, so that all of them lie aligned. It is there whole or not at all,
/// even if the machine stops: it is written under another name in the same folder, synced and renamed. Throws Error,
/// and leaves a file that was there before as it was, when writing fails, a name comes twice or text is not UTF-8.
void save_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                      const std::map<std::string, std::string>& metadata = {});

/// Reads a file. Throws Error, which names the file and what is wrong, for anything that the format does not allow, and
/// for a dtype or a number of dimensions that Tensor does not have. No size is believed before it was compared with the
/// file's.
SafetensorsFile load_safetensors(const std::filesystem::path& path);
/// The same for bytes in memory; errors call them `name`.
SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::string_view name = "safetensors");

}  // namespace v0
}  // namespace anneal
