// Small pictures as PNG. Private.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace anneal {
inline namespace v0 {

/// A PNG file of rows of pixels with 1 (grey), 3 (RGB) or 4 (RGBA) bytes each. The data is stored, not packed: nothing
/// but this file is needed, and samples for a log are small.
std::string png(std::span<const std::uint8_t> pixels, std::int64_t height, std::int64_t width, int channels);

}  // namespace v0
}  // namespace anneal
