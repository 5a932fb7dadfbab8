# The GPU's side of the library, by ANNEAL_CUDA:
#   AUTO     built where the CUDA toolkit and cuDNN are
#   ON       the same, and an error where they are not
#   OFF      not built
#   EMULATE  device cuda is an emulation on the CPU (kernels/cuda/model.h): slow, it tests what runs on GPUs without one
# Building needs no GPU and no driver: programs look for both when a CUDA device is asked for.
#
# Sets anneal_gpu, the namespace of the GPU's kernels (cuda or emulated), anneal_has_gpu, whether the library has them, and
# anneal_has_nccl.
set(ANNEAL_CUDA AUTO CACHE STRING "CUDA devices: AUTO, ON, OFF or EMULATE")
set_property(CACHE ANNEAL_CUDA PROPERTY STRINGS AUTO ON OFF EMULATE)

set(anneal_gpu emulated)
set(anneal_has_gpu OFF)
set(anneal_has_nccl OFF)
if(ANNEAL_CUDA STREQUAL "EMULATE")
  set(anneal_has_gpu ON)
elseif(ANNEAL_CUDA)
  list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})
  set(missing "")
  find_package(CUDAToolkit 12 QUIET)  # the first whose nvcc knows C++20
  if(CUDAToolkit_FOUND)
    find_package(cuDNN 9 QUIET)
    if(cuDNN_FOUND)
      file(STRINGS ${cuDNN_INCLUDE_DIR}/cudnn_graph.h described REGEX "CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION")
    endif()
    if(NOT described)
      list(APPEND missing "cuDNN 9 with plans for described devices (tried: 9.19)")
    endif()
    if(NOT TARGET CUDA::cublasLt)
      list(APPEND missing "cuBLASLt")
    endif()
    # Also one that is not in PATH, such as that of /usr/local/cuda.
    if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
      set(ENV{CUDACXX} ${CUDAToolkit_NVCC_EXECUTABLE})
    endif()
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real CACHE STRING "GPUs to compile for")
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      list(APPEND missing "an nvcc that works with this system's C++ compiler")
    endif()
  else()
    set(missing "the CUDA toolkit, 12 or newer (nvcc in PATH, in /usr/local/cuda, or CUDAToolkit_ROOT)")
  endif()

  list(JOIN missing "; " missing)
  if(NOT missing)
    set(anneal_gpu cuda)
    set(anneal_has_gpu ON)
    enable_language(CUDA)
    # NCCL is opened when a program runs. Its header is all that the build needs.
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    mark_as_advanced(NCCL_INCLUDE_DIR)
    if(NCCL_INCLUDE_DIR)
      set(anneal_has_nccl ON)
    endif()
  elseif(NOT ANNEAL_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ANNEAL_CUDA=${ANNEAL_CUDA}: not found: ${missing}")
  endif()
endif()

if(anneal_gpu STREQUAL "cuda")
  set(nccl "with NCCL")
  if(NOT anneal_has_nccl)
    set(nccl "without NCCL, as there is no nccl.h")
  endif()
  message(STATUS "anneal: CUDA ${CUDAToolkit_VERSION}, cuDNN ${cuDNN_VERSION}, ${nccl}, for ${CMAKE_CUDA_ARCHITECTURES}")
elseif(anneal_has_gpu)
  message(STATUS "anneal: an emulation of CUDA devices")
elseif(ANNEAL_CUDA)
  message(STATUS "anneal: no CUDA: not found: ${missing}")
else()
  message(STATUS "anneal: no CUDA: ANNEAL_CUDA=${ANNEAL_CUDA}")
endif()
