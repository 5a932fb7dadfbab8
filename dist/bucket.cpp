#include "anneal/dist/bucket.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

// What must be the same, as lines of a subject and what it is.
struct Line {
  std::string subject, what;
};
constexpr char field_end = '\x1f', line_end = '\x1e';

std::vector<Line> describe(std::span<const optim::Arena> arenas, std::span<const Bucket> buckets) {
  std::vector<Line> lines;
  for (const optim::Arena& arena : arenas)
    for (const optim::Arena::Slot& slot : arena.slots())
      lines.push_back({format("\"{}\"", slot.name), format("{} {}", slot.parameter.shape(), name_of(arena.dtype()))});
  for (const optim::Arena& arena : arenas)
    for (const optim::Arena::Slot& slot : arena.slots())
      lines.push_back({format("the place of \"{}\"", slot.name), format("[{}, {})", slot.begin, slot.end)});
  for (std::size_t b = 0; b < buckets.size(); ++b)
    lines.push_back(
        {format("bucket {}", b), format("[{}, {}) of arena {}", buckets[b].begin, buckets[b].end, buckets[b].arena)});
  return lines;
}

std::string join(std::span<const Line> lines) {
  std::string text;
  for (const Line& line : lines) text += line.subject + field_end + line.what + line_end;
  return text;
}

std::vector<Line> split(std::string_view text) {
  std::vector<Line> lines;
  while (!text.empty()) {
    const std::size_t field = text.find(field_end), line = text.find(line_end, field);
    lines.push_back({std::string(text.substr(0, field)), std::string(text.substr(field + 1, line - field - 1))});
    text.remove_prefix(line + 1);
  }
  return lines;
}

std::string first_difference(int rank, std::string_view there, std::string_view on_0) {
  const std::vector<Line> a = split(there), b = split(on_0);
  for (std::size_t i = 0;; ++i) {
    if (i >= a.size()) return format("rank {} differs: it lacks {}", rank, b.at(i).subject);
    if (i >= b.size()) return format("rank {} differs: it has {}, rank 0 has not", rank, a[i].subject);
    if (a[i].subject != b[i].subject)
      return format("rank {} differs: it has {} where rank 0 has {}", rank, a[i].subject, b[i].subject);
    if (a[i].what != b[i].what)
      return format("rank {} differs: {} is {} there, {} on rank 0", rank, a[i].subject, a[i].what, b[i].what);
  }
}

std::int64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return static_cast<std::int64_t>(hash);
}

// All ranks' tensors, on the CPU.
Tensor gather(ProcessGroup& group, const Tensor& mine) {
  const Tensor all = empty({group.size() * mine.numel()}, {.dtype = mine.dtype(), .device = group.device()});
  group.all_gather(all, mine.to(group.device()));
  return all.to(Device{});
}
std::vector<std::int64_t> gather(ProcessGroup& group, std::int64_t mine) {
  const Tensor number = empty({1}, {.dtype = DType::i64});
  number.span<std::int64_t>()[0] = mine;
  const Tensor all = gather(group, number);
  return {all.span<std::int64_t>().begin(), all.span<std::int64_t>().end()};
}

}  // namespace

std::vector<Bucket> make_buckets(std::span<const optim::Arena> arenas, BucketOptions options) {
  check<ConfigError>(options.bucket_bytes >= 0 && options.first_bucket_bytes > 0,
                     "bucket_bytes: expected sizes above 0, got {} and first_bucket_bytes = {}", options.bucket_bytes,
                     options.first_bucket_bytes);
  std::vector<Bucket> buckets;
  for (std::size_t a = 0; a < arenas.size(); ++a) {
    const optim::Arena& arena = arenas[a];
    const std::span<const optim::Arena::Slot> slots = arena.slots();
    const bool on_cpu = arena.values().device().kind == DeviceKind::cpu;
    const std::int64_t usual = options.bucket_bytes > 0 ? options.bucket_bytes : (on_cpu ? 4 << 20 : 25 << 20);
    const auto unit = static_cast<std::int64_t>(size_of(arena.dtype()));
    for (std::size_t first = 0, s = 0; s < slots.size(); ++s) {
      const bool last = s + 1 == slots.size();
      const std::int64_t begin = first == 0 ? 0 : slots[first].begin;
      const std::int64_t end = last ? arena.gradients().numel() : slots[s + 1].begin;
      const std::int64_t wanted = buckets.empty() ? std::min(usual, options.first_bucket_bytes) : usual;
      if (!last && (end - begin) * unit < wanted) continue;
      buckets.push_back({a, begin, end, first, s + 1});
      first = s + 1;
    }
  }
  return buckets;
}

void check_same(ProcessGroup& group, std::span<const optim::Arena> arenas, std::span<const Bucket> buckets) {
  const std::string mine = join(describe(arenas, buckets));
  const std::vector<std::int64_t> hashes = gather(group, hash_of(mine));
  if (std::equal(hashes.begin() + 1, hashes.end(), hashes.begin())) return;

  const std::vector<std::int64_t> lengths = gather(group, static_cast<std::int64_t>(mine.size()));
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const Tensor padded = zeros({longest}, {.dtype = DType::u8});
  std::copy(mine.begin(), mine.end(), padded.data<std::uint8_t>());
  const Tensor all = gather(group, padded);
  const auto text_of = [&](std::size_t rank) {
    const auto* begin = reinterpret_cast<const char*>(all.raw()) + static_cast<std::int64_t>(rank) * longest;
    return std::string_view(begin, static_cast<std::size_t>(lengths[rank]));
  };
  for (std::size_t rank = 1; rank < hashes.size(); ++rank)
    if (hashes[rank] != hashes[0]) throw Error(first_difference(static_cast<int>(rank), text_of(rank), text_of(0)));
}

void broadcast(ProcessGroup& group, std::span<const NamedTensor> tensors, int root) {
  std::vector<Work> works;
  for (const NamedTensor& entry : tensors) works.push_back(group.broadcast_async(entry.tensor, root, entry.name));
  for (const Work& work : works) work.wait();
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
