// The windows of a convolution over images that lie in frames of zeros.
#pragma once

#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/cpu/level.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// Where images lie in frames of zeros, so that no window needs to look for their edges: source pixel (y, x) is at
/// (top + y * step_h, left + x * step_w) of its frame, or left out when that is outside.
struct Frame {
  std::int64_t planes, h, w, top, left, height, width, step_h = 1, step_w = 1;

  std::int64_t size() const { return planes * height * width; }

  /// Writes one image's pixels into a frame that has zeros elsewhere.
  template <class T, class To>
  void fill(const T* image, To* frame) const {
    const std::int64_t y0 = first(top, step_h), y1 = end(top, step_h, h, height);
    const std::int64_t x0 = first(left, step_w), x1 = end(left, step_w, w, width);
    if (y0 >= y1 || x0 >= x1) return;
    for (std::int64_t p = 0; p < planes; ++p) {
      const T* from = image + (p * h + y0) * w + x0;
      To* to = frame + (p * height + top + y0 * step_h) * width + left + x0 * step_w;
      if (step_w == 1) {
        copy_matrix(y1 - y0, x1 - x0, from, w, to, step_h * width);
      } else {
        for (std::int64_t y = y0; y < y1; ++y, from += w, to += step_h * width) {
          for (std::int64_t x = 0; x < x1 - x0; ++x) to[x * step_w] = store<To>(load(from[x]));
        }
      }
    }
  }

 private:
  /// The pixels of one dimension that are inside the frame.
  static std::int64_t first(std::int64_t begin, std::int64_t step) { return begin < 0 ? (step - 1 - begin) / step : 0; }
  static std::int64_t end(std::int64_t begin, std::int64_t step, std::int64_t n, std::int64_t size) {
    const std::int64_t room = size - begin <= 0 ? 0 : (size - begin + step - 1) / step;
    return n < room ? n : room;
  }
};

/// The windows over framed images, numbered over the pixels of y, image after image.
struct Windows {
  Frame frame;
  std::int64_t kernel_h, kernel_w, dilation_h, dilation_w, stride_h, stride_w, out_h, out_w;

  std::int64_t pixels() const { return out_h * out_w; }
  std::int64_t taps() const { return frame.planes * kernel_h * kernel_w; }
  /// Images that are worked on at a time: their pixels fill panels even where each image has few.
  std::int64_t at_once(std::int64_t images) const {
    const std::int64_t wanted = (511 + pixels()) / pixels();
    return wanted < images ? wanted : images;
  }

  struct Tap {
    std::int64_t plane, row, column;
  };
  Tap tap(std::int64_t i) const { return {i / kernel_w / kernel_h, i / kernel_w % kernel_h, i % kernel_w}; }
  std::int64_t tap_offset(std::int64_t i) const {
    const auto [plane, row, column] = tap(i);
    return (plane * frame.height + row * dilation_h) * frame.width + column * dilation_w;
  }
  std::int64_t pixel_offset(std::int64_t pixel) const {
    const std::int64_t x = pixel % out_w, y = pixel / out_w % out_h, image = pixel / pixels();
    return image * frame.size() + y * stride_h * frame.width + x * stride_w;
  }
  double flops(std::int64_t images, std::int64_t planes_out) const {
    return 2.0 * static_cast<double>(images * pixels()) * static_cast<double>(taps() * planes_out);
  }

  /// This thread's memory for the frames of so many images, all zero; whole vectors may be read past any pixel.
  template <class To>
  To* frames(std::int64_t images) const {
    const std::int64_t n = images * frame.size() + 2 * lanes<To>;
    To* memory = scratch<To>(Scratch::image, n);
    __builtin_memset(memory, 0, static_cast<std::size_t>(n) * sizeof(To));
    return memory;
  }
};

ANNEAL_HD Windows windows_of(const ConvShape& s) {
  const Frame frame{s.c_in / s.groups,    s.h, s.w, s.padding_h, s.padding_w, s.h + 2 * s.padding_h,
                    s.w + 2 * s.padding_w};
  return {frame, s.kernel_h, s.kernel_w, s.dilation_h, s.dilation_w, s.stride_h, s.stride_w, s.out_h(), s.out_w()};
}

/// The parts that the images of a weight gradient of `size` elements are summed in, so that threads need not wait for
/// each other at every image: it depends on the shape alone, as the order of sums must not change with the threads.
ANNEAL_HD std::int64_t image_parts(std::int64_t images, std::int64_t size) {
  const std::int64_t room = (std::int64_t{1} << 18) / size, most = room < 8 ? room : 8;
  const std::int64_t parts = images < most ? images : most;
  return parts < 1 ? 1 : parts;
}

/// Calls `f(part, begin, end)` for the pieces of [begin, end) that lie in one part of `size` each.
template <class F>
ANNEAL_HD void for_parts(std::int64_t begin, std::int64_t end, std::int64_t size, const F& f) {
  while (begin < end) {
    const std::int64_t part = begin / size, stop = (part + 1) * size < end ? (part + 1) * size : end;
    f(part, begin - part * size, stop - part * size);
    begin = stop;
  }
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
