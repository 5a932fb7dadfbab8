// Errors of the CUDA libraries as exceptions. Private to the files that include their headers.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {

/// `call` names the function.
inline void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) [[likely]]
    return;
  static_cast<void>(cudaGetLastError());  // else the next call that looks for errors would find this one
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}
inline void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  throw std::runtime_error(std::string(call) + ": " + cublasLtGetStatusName(status) + ": " +
                           cublasLtGetStatusString(status));
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
