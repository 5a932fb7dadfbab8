#include "anneal/dist/shared_tensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "anneal/dist/socket.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

constexpr std::size_t alignment = 64;

// A tensor of the memory: what a rank must know to find it there.
struct Place {
  std::string name;
  DType dtype{};
  Shape shape;
  std::size_t bytes() const { return static_cast<std::size_t>(shape.numel()) * size_of(dtype); }
  /// Up to where the next one begins.
  std::size_t room() const { return (bytes() + alignment - 1) / alignment * alignment; }
};

// One after the other, each at a multiple of the alignment.
std::size_t bytes_of(const std::vector<Place>& places) {
  std::size_t sum = 0;
  for (const Place& place : places) sum += place.room();
  return std::max<std::size_t>(sum, 1);
}

std::string to_text(const std::vector<Place>& places) {
  std::ostringstream text;
  text << places.size();
  for (const auto& [name, dtype, shape] : places) {
    text << ' ' << static_cast<int>(dtype) << ' ' << shape.rank();
    for (const std::int64_t size : shape) text << ' ' << size;
    text << ' ' << name.size() << ' ' << name;
  }
  return text.str();
}
std::vector<Place> places_from(std::istream& text) {
  std::size_t count = 0;
  text >> count;
  std::vector<Place> places(count);
  for (auto& [name, dtype, shape] : places) {
    int number = 0, rank = 0;
    text >> number >> rank;
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(rank));
    for (std::int64_t& size : sizes) text >> size;
    std::size_t length = 0;
    text >> length;
    text.get();
    name.resize(length);
    text.read(name.data(), static_cast<std::streamsize>(length));
    dtype = static_cast<DType>(number);
    shape = Shape(sizes);
  }
  return places;
}

std::shared_ptr<void> map(const FileDescriptor& file, std::size_t bytes, int flags) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file.get(), 0);
  check(memory != MAP_FAILED, "shared tensors: cannot map {} bytes: {}", bytes, std::strerror(errno));
  return {memory, [bytes](void* mapped) { ::munmap(mapped, bytes); }};
}

// Memory with a file descriptor and no name.
FileDescriptor put_into_memory(const StateDict& tensors, const std::vector<Place>& places) {
  FileDescriptor file(::memfd_create("anneal", MFD_CLOEXEC));
  const std::size_t bytes = bytes_of(places);
  check(file.get() >= 0 && ::ftruncate(file.get(), static_cast<off_t>(bytes)) == 0,
        "shared tensors: no {} bytes of memory: {}", bytes, std::strerror(errno));
  const std::shared_ptr<void> memory = map(file, bytes, MAP_SHARED);
  auto* to = static_cast<std::byte*>(memory.get());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor x = tensors[i].tensor.detach().to(Device{}).contiguous();
    if (x.numel() > 0) std::memcpy(to, x.raw(), places[i].bytes());
    to += places[i].room();
  }
  return file;
}

StateDict tensors_in(const FileDescriptor& file, const std::vector<Place>& places) {
  const std::shared_ptr<void> memory = map(file, bytes_of(places), MAP_PRIVATE);
  auto* from = static_cast<std::byte*>(memory.get());
  StateDict tensors;
  for (const Place& place : places) {
    tensors.push_back({place.name, from_blob(from, place.shape, {.dtype = place.dtype}, memory)});
    from += place.room();
  }
  return tensors;
}

}  // namespace

StateDict share_tensors(World& world, const std::function<StateDict()>& make, std::chrono::milliseconds patience) {
  FileDescriptor file;
  std::string mine;
  if (world.local_rank() == 0) {
    const StateDict tensors = make();
    std::vector<Place> places;
    for (const auto& [name, tensor] : tensors) places.push_back({name, tensor.dtype(), tensor.shape()});
    file = put_into_memory(tensors, places);
    mine = format("{} {} {}", ::getpid(), file.get(), to_text(places));
  }
  const std::vector<std::string> all = world.store().exchange("shared_tensors", mine, patience);
  std::istringstream text(all.at(static_cast<std::size_t>(world.rank() - world.local_rank())));
  int process = 0, number = 0;
  text >> process >> number;
  if (world.local_rank() > 0) {
    const std::string path = format("/proc/{}/fd/{}", process, number);
    file = FileDescriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    check(file.get() >= 0, "shared tensors: rank {} cannot open the memory of process {}: {}", world.rank(), process,
          std::strerror(errno));
  }
  StateDict tensors = tensors_in(file, places_from(text));
  world.store().exchange("shared_tensors/mapped", "", patience);  // until then its maker keeps it open
  return tensors;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
