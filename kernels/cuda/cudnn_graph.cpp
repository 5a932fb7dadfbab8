#include "anneal/kernels/cuda/cudnn_graph.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "anneal/kernels/cuda/runtime.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {
namespace cudnn {
namespace {

/// The strides of a dense tensor.
Dims dense(const Dims& d) { return {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1}; }

struct ConvolutionNames {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t x, w, y, options, alpha, beta;
};
const ConvolutionNames& names_of(Direction direction) {
  static constexpr ConvolutionNames names[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};
  return names[static_cast<int>(direction)];
}

/// What an attribute of a finalized descriptor holds, at most `most` of it.
template <class T>
std::vector<T> get(const Descriptor& from, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   std::int64_t most) {
  std::vector<T> values(static_cast<std::size_t>(most));
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(from.get(), name, type, most, &count, values.data()), "cudnnBackendGetAttribute");
  values.resize(static_cast<std::size_t>(std::min(count, most)));
  return values;
}

/// Engines with their settings, best first.
std::vector<Descriptor> proposals(const Descriptor& graph, const Target& target, cudnnBackendHeurMode_t mode) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (!target.handle()) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target.description());
  heuristics.finalize();
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
                                 &count, nullptr),
        "cudnnBackendGetAttribute");
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::int64_t i = 0; i < count; ++i) {
    configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    handles.push_back(configs.back().get());
  }
  if (count > 0) {
    check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                   count, &count, handles.data()),
          "cudnnBackendGetAttribute");
  }
  configs.resize(static_cast<std::size_t>(count));
  return configs;
}

bool allowed(const Descriptor& config, Rules rules) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.get();
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(config.get(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                                 &handle),
        "cudnnBackendGetAttribute");
  const auto notes = get<cudnnBackendNumericalNote_t>(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                      CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  return std::none_of(notes.begin(), notes.end(), [&](cudnnBackendNumericalNote_t note) {
    return note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
           note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
           (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && !rules.tensor_cores);
  });
}

}  // namespace

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  char words[1024] = "";
  cudnnGetLastErrorString(words, sizeof words);
  throw std::runtime_error(std::string(call) + ": " + cudnnGetErrorString(status) + ": " + words);
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  check(cudnnBackendCreateDescriptor(type, &handle_), "cudnnBackendCreateDescriptor");
}
Descriptor::~Descriptor() {
  if (handle_) cudnnBackendDestroyDescriptor(handle_);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t count,
                     const void* values) {
  check(cudnnBackendSetAttribute(handle_, name, type, static_cast<std::int64_t>(count), values),
        "cudnnBackendSetAttribute");
}
void Descriptor::finalize() { check(cudnnBackendFinalize(handle_), "cudnnBackendFinalize"); }

Target Target::described(const std::string& json) {
  Target target(nullptr);
  target.description_ = Descriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  target.description_.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, json.size(), json.data());
  target.description_.finalize();
  return target;
}

void Plan::execute(cudnnHandle_t handle, std::span<const std::int64_t> ids, std::span<void* const> pointers,
                   void* workspace) const {
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.size(), pointers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize();
  check(cudnnBackendExecute(handle, plan_.get(), pack.get()), "cudnnBackendExecute");
}

const Descriptor& Graph::descriptor_of(const Tensor& tensor) {
  const auto [at, is_new] = tensors_.try_emplace(tensor.id);
  if (!is_new) return at->second;
  Descriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, tensor.id);
  made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, tensor.dtype);
  made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, tensor.alignment);
  made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, tensor.dims);
  made.set(CUDNN_ATTR_TENSOR_STRIDES, dense(tensor.dims));
  made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, tensor.is_virtual);
  made.finalize();
  return at->second = std::move(made);
}

void Graph::convolution(Direction direction, const Tensor& x, const Tensor& w, const Tensor& y,
                        const ConvolutionOptions& options) {
  Descriptor how(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  how.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, options.compute);
  how.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  how.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2});
  how.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, options.padding);
  how.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, options.padding);
  how.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, options.stride);
  how.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, options.dilation);
  how.finalize();

  const ConvolutionNames& names = names_of(direction);
  Descriptor operation(names.operation);
  operation.set(names.x, descriptor_of(x));
  operation.set(names.w, descriptor_of(w));
  operation.set(names.y, descriptor_of(y));
  operation.set(names.options, how);
  if (options.compute == CUDNN_DATA_DOUBLE) {
    operation.set(names.alpha, 1.0);
    operation.set(names.beta, 0.0);
  } else {
    operation.set(names.alpha, 1.0f);
    operation.set(names.beta, 0.0f);
  }
  operation.finalize();
  options_.push_back(std::move(how));
  operations_.push_back(std::move(operation));
}

void Graph::pointwise(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor* b, const Tensor& y) {
  Descriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, x.dtype == CUDNN_DATA_DOUBLE ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT);
  how.finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, descriptor_of(x));
  if (b) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, descriptor_of(*b));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, descriptor_of(y));
  operation.finalize();
  options_.push_back(std::move(how));
  operations_.push_back(std::move(operation));
}

std::optional<Plan> Graph::plan(const Target& target, Rules rules) const {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const Descriptor& operation : operations_) handles.push_back(operation.get());
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, handles.size(), handles.data());
  if (target.handle()) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, target.handle());
  // A graph that no engine knows can fail here already.
  if (cudnnBackendFinalize(graph.get()) != CUDNN_STATUS_SUCCESS) return std::nullopt;

  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (Descriptor& config : proposals(graph, target, mode)) {
      if (!allowed(config, rules)) continue;
      Plan made;
      made.plan_ = Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      made.plan_.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
      if (target.handle()) made.plan_.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle());
      else made.plan_.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target.description());
      if (cudnnBackendFinalize(made.plan_.get()) != CUDNN_STATUS_SUCCESS) continue;
      made.workspace_ =
          get<std::int64_t>(made.plan_, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0);
      made.config_ = std::move(config);
      return made;
    }
  }
  return std::nullopt;
}

}  // namespace cudnn

std::string device_description(int device) {
  const auto id = static_cast<std::int32_t>(device);
  using namespace cudnn;
  Descriptor description(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  description.set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, 1, &id);
  description.finalize();
  std::int64_t size = 0;
  cudnn::check(cudnnBackendGetAttribute(description.get(), CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                        0, &size, nullptr),
               "cudnnBackendGetAttribute");
  const auto text = cudnn::get<char>(description, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     std::max<std::int64_t>(size, 1));
  return std::string(text.begin(), std::find(text.begin(), text.end(), '\0'));
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
