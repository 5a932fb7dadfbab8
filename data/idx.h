// The IDX file format of the MNIST data (LeCun): 00 00 type rank | sizes, 4 bytes each | elements; all big-endian.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// Reads an IDX file, plain or gzipped. Its types unsigned byte, int, float and double become u8, i32, f32 and f64;
/// signed byte and short become i32. Throws Error, which names the file, what was expected and what came, when it is
/// missing, truncated, longer than its sizes say, or no IDX file. No size is believed that the file cannot have.
Tensor read_idx(const std::filesystem::path& path);
/// The same for bytes in memory; errors call them `name`.
Tensor parse_idx(std::span<const std::byte> bytes, const std::string& name = "idx");

}  // namespace v0
}  // namespace anneal
