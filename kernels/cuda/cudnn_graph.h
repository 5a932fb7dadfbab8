// cuDNN's backend interface as values: tensors and operations make a graph; a graph and a target make a plan; a plan is
// executed. Only what convolutions need.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace anneal {
inline namespace v0 {
namespace kernels::cuda::cudnn {

/// Throws std::runtime_error with the call, the status and cuDNN's own words unless all is well.
void check(cudnnStatus_t status, const char* call);

/// Owns one descriptor of any kind.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  cudnnBackendDescriptor_t get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

  /// `count` elements of the kind that `type` says.
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t count, const void* values);
  void set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> v) {
    set(name, CUDNN_TYPE_INT64, v.size(), v.data());
  }
  void set(cudnnBackendAttributeName_t name, std::int64_t v) { set(name, CUDNN_TYPE_INT64, 1, &v); }
  void set(cudnnBackendAttributeName_t name, bool v) { set(name, CUDNN_TYPE_BOOLEAN, 1, &v); }
  void set(cudnnBackendAttributeName_t name, float v) { set(name, CUDNN_TYPE_FLOAT, 1, &v); }
  void set(cudnnBackendAttributeName_t name, double v) { set(name, CUDNN_TYPE_DOUBLE, 1, &v); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t v) { set(name, CUDNN_TYPE_DATA_TYPE, 1, &v); }
  void set(cudnnBackendAttributeName_t name, cudnnHandle_t v) { set(name, CUDNN_TYPE_HANDLE, 1, &v); }
  void set(cudnnBackendAttributeName_t name, const Descriptor& v) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &v.handle_);
  }
  void finalize();

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

/// What plans are made for: the device of a handle, or a device described in JSON. The latter needs no device and no
/// driver; its plans show that a graph is supported, but cannot be executed.
class Target {
 public:
  explicit Target(cudnnHandle_t handle) : handle_(handle) {}
  static Target described(const std::string& json);

  cudnnHandle_t handle() const { return handle_; }
  const Descriptor& description() const { return description_; }

 private:
  cudnnHandle_t handle_;
  Descriptor description_;
};

using Dims = std::array<std::int64_t, 4>;

/// A tensor of a graph. Dimensions of images are n, c, h, w, those of filters c_out, c_in / groups, h, w; both dense.
struct Tensor {
  std::int64_t id;  // names the pointer at execution
  cudnnDataType_t dtype;
  Dims dims;
  std::int64_t alignment;   // of the pointer, in bytes
  bool is_virtual = false;  // exists within the graph alone
};

struct ConvolutionOptions {
  std::array<std::int64_t, 2> padding, stride, dilation;
  cudnnDataType_t compute;
};
enum class Direction { forward, input_grad, weight_grad };

/// What an engine may do.
struct Rules {
  bool tensor_cores = true;  // for f32 they round to TF32
};

class Plan {
 public:
  std::int64_t workspace_bytes() const { return workspace_; }
  /// `ids[i]` is at `pointers[i]`; runs on the handle's stream.
  void execute(cudnnHandle_t handle, std::span<const std::int64_t> ids, std::span<void* const> pointers,
               void* workspace) const;

 private:
  friend class Graph;
  Descriptor config_, plan_;
  std::int64_t workspace_ = 0;
};

class Graph {
 public:
  /// x, w and y are those of the forward convolution in each direction; the one to be computed is y, x or w.
  void convolution(Direction direction, const Tensor& x, const Tensor& w, const Tensor& y,
                   const ConvolutionOptions& options);
  void add(const Tensor& a, const Tensor& b, const Tensor& y) { pointwise(CUDNN_POINTWISE_ADD, a, &b, y); }
  void relu(const Tensor& x, const Tensor& y) { pointwise(CUDNN_POINTWISE_RELU_FWD, x, nullptr, y); }

  /// The first plan in the order of cuDNN's heuristics whose engine gives the same bits every time, keeps its inputs'
  /// precision, and follows the rules; none if there is no such engine.
  std::optional<Plan> plan(const Target& target, Rules rules) const;

 private:
  const Descriptor& descriptor_of(const Tensor& tensor);
  void pointwise(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor* b, const Tensor& y);

  std::map<std::int64_t, Descriptor> tensors_;  // by id
  std::vector<Descriptor> options_, operations_;
};

}  // namespace kernels::cuda::cudnn
}  // namespace v0
}  // namespace anneal
