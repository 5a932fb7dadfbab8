// Convolution by cuDNN: dense NCHW tensors, engines that give the same bits every time, f32 in full precision unless
// TF32 is allowed.
#include <stdexcept>

#include "anneal/kernels/cuda/conv_plans.h"
#include "anneal/kernels/cuda/epilogue.h"
#include "anneal/kernels/cuda/plan_cache.h"
#include "anneal/kernels/cuda/runtime.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {
namespace {

/// Handles and plans live as long as the process: at exit the driver may be gone before them.
cudnnHandle_t handle_of(Stream stream) {
  static std::mutex& mutex = *new std::mutex;
  static std::map<void*, cudnnHandle_t>& handles = *new std::map<void*, cudnnHandle_t>;
  const std::lock_guard lock(mutex);
  cudnnHandle_t& handle = handles[stream.handle];
  if (!handle) {
    set_device(current_device());  // says what is missing, if the device is
    cudnnHandle_t made = nullptr;
    cudnn::check(cudnnCreate(&made), "cudnnCreate");
    cudnn::check(cudnnSetStream(made, static_cast<cudaStream_t>(stream.handle)), "cudnnSetStream");
    handle = made;
  }
  return handle;
}

/// A plan of one of these that do not exist is kept, too: asking again would take as long.
using MaybePlan = std::optional<cudnn::Plan>;

std::shared_ptr<const MaybePlan> find_plan(const ConvGraph& graph, cudnnHandle_t handle) {
  using Key = std::pair<int, decltype(graph.key())>;
  static auto& cache = *new PlanCache<Key, MaybePlan>;
  return cache.find({current_device(), graph.key()}, [&] { return plan(graph, cudnn::Target(handle)); });
}

std::int64_t numel_x(const ConvShape& s) { return s.n * s.c_in * s.h * s.w; }
std::int64_t numel_y(const ConvShape& s) { return s.n * s.c_out * s.out_h() * s.out_w(); }
std::int64_t numel_weight(const ConvShape& s) { return s.c_out * (s.c_in / s.groups) * s.kernel_h * s.kernel_w; }
bool empty(const ConvShape& s) { return numel_x(s) == 0 || numel_y(s) == 0 || numel_weight(s) == 0; }

ConvGraph graph_of(cudnn::Direction direction, DType dtype, const ConvShape& shape, const void* x, const void* weight,
                   const void* y, const void* bias = nullptr) {
  return {.direction = direction,
          .dtype = dtype,
          .shape = shape,
          .align_x = alignment_of(x, 16),
          .align_weight = alignment_of(weight, 16),
          .align_y = alignment_of(y, 16),
          .align_bias = alignment_of(bias, 16),
          .tf32 = tf32_allowed()};
}

struct Pointers {
  const void *x, *weight, *y, *bias = nullptr;
};
void execute(const cudnn::Plan& plan, cudnnHandle_t handle, const Pointers& p, void* workspace) {
  constexpr std::int64_t ids[] = {ConvGraph::x, ConvGraph::weight, ConvGraph::y, ConvGraph::bias};
  // cuDNN's interface has one kind of pointer for what it reads and what it writes.
  void* const pointers[] = {const_cast<void*>(p.x), const_cast<void*>(p.weight), const_cast<void*>(p.y),
                            const_cast<void*>(p.bias)};
  const std::size_t count = p.bias ? 4 : 3;
  plan.execute(handle, {ids, count}, {pointers, count}, workspace);
}

const cudnn::Plan& must(const std::shared_ptr<const MaybePlan>& plan, const ConvGraph& graph) {
  if (*plan) return **plan;
  const ConvShape& s = graph.shape;
  constexpr const char* names[] = {"convolution", "convolution's input gradient", "convolution's weight gradient"};
  std::string text = std::string("cuDNN has no deterministic engine for this ") +
                     names[static_cast<int>(graph.direction)] + " in " + name_of(graph.dtype) + ": input";
  for (const std::int64_t size : {s.n, s.c_in, s.h, s.w}) text += " " + std::to_string(size);
  text += ", weight";
  for (const std::int64_t size : {s.c_out, s.c_in / s.groups, s.kernel_h, s.kernel_w})
    text += " " + std::to_string(size);
  throw std::runtime_error(text + ", groups " + std::to_string(s.groups));
}

void* scratch(const cudnn::Plan& plan, Stream stream) {
  return workspace(stream, static_cast<std::size_t>(plan.workspace_bytes()));
}

}  // namespace

template <>
void run(const Conv2d& c, Stream stream) {
  const ConvShape& s = c.shape;
  if (numel_y(s) == 0) return;
  const bool relu = c.activation == Activation::relu;
  if (empty(s)) {
    fill_zero(c.y, static_cast<std::size_t>(numel_y(s)) * size_of(c.dtype), stream);
  } else {
    const cudnnHandle_t handle = handle_of(stream);
    const ConvGraph plain = graph_of(cudnn::Direction::forward, c.dtype, s, c.x, c.weight, c.y, c.bias);
    if (c.bias) {
      ConvGraph fused = plain;
      fused.has_bias = true;
      fused.relu = relu;
      if (const auto plan = find_plan(fused, handle); *plan)
        return execute(**plan, handle, {c.x, c.weight, c.y, c.bias}, scratch(**plan, stream));
    }
    const auto found = find_plan(plain, handle);
    const cudnn::Plan& plan = must(found, plain);
    execute(plan, handle, {c.x, c.weight, c.y}, scratch(plan, stream));
  }
  const std::int64_t pixels = s.out_h() * s.out_w();
  const Space<2> planes{
      .rank = 3, .size = {s.n, s.c_out, pixels}, .stride = {{s.c_out * pixels, pixels, 1}, {0, 1, 0}}};
  epilogue(c.dtype, planes, c.y, c.bias, relu, stream);
}

template <>
void run(const Conv2dInputGrad& c, Stream stream) {
  const ConvShape& s = c.shape;
  if (empty(s)) return fill_zero(c.dx, static_cast<std::size_t>(numel_x(s)) * size_of(c.dtype), stream);
  const cudnnHandle_t handle = handle_of(stream);
  const ConvGraph graph = graph_of(cudnn::Direction::input_grad, c.dtype, s, c.dx, c.weight, c.dy);
  const auto found = find_plan(graph, handle);
  const cudnn::Plan& plan = must(found, graph);
  execute(plan, handle, {c.dx, c.weight, c.dy}, scratch(plan, stream));
}

template <>
void run(const Conv2dWeightGrad& c, Stream stream) {
  const ConvShape& s = c.shape;
  const auto n = static_cast<std::size_t>(numel_weight(s));
  if (empty(s)) {
    if (!c.accumulate) fill_zero(c.dweight, n * size_of(c.out), stream);
    return;
  }
  const cudnnHandle_t handle = handle_of(stream);
  // The result goes to the workspace, behind the plan's own part, if something is to be done to it yet.
  const bool converts = c.out != c.dtype, direct = !converts && !c.accumulate;
  const ConvGraph graph = graph_of(cudnn::Direction::weight_grad, c.dtype, s, c.x, direct ? c.dweight : nullptr, c.dy);
  const auto found = find_plan(graph, handle);
  const cudnn::Plan& plan = must(found, graph);
  const auto whole = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::size_t own = whole(static_cast<std::size_t>(plan.workspace_bytes()));
  const std::size_t computed_bytes = whole(n * size_of(c.dtype)), converted_bytes = whole(n * size_of(c.out));
  auto* const space = static_cast<std::byte*>(
      workspace(stream, own + (direct ? 0 : computed_bytes) + (converts && c.accumulate ? converted_bytes : 0)));
  void* result = direct ? c.dweight : space + own;
  execute(plan, handle, {c.x, result, c.dy}, space);

  const auto size = static_cast<std::int64_t>(n);
  if (converts) {
    void* const converted = c.accumulate ? space + own + computed_bytes : c.dweight;
    run(Copy{c.dtype, c.out, {.rank = 1, .size = {size}, .stride = {{1}, {1}}}, result, converted}, stream);
    result = converted;
  }
  if (c.accumulate) {
    const Space<3> dense{.rank = 1, .size = {size}, .stride = {{1}, {1}, {1}}};
    run(Binary{binary_id<Add>, c.out, dense, c.dweight, result, c.dweight}, stream);
  }
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
