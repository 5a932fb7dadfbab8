// NCCL's functions, found when the program runs: the library is not linked. Private; needs NCCL's header.
#pragma once

#include <nccl.h>

#include <string>

namespace anneal {
inline namespace v0 {
namespace dist {

struct NcclLibrary {
  /// Opens the library that the environment's ANNEAL_NCCL_LIBRARY names, else "libnccl.so.2". Throws Error when it is
  /// not there, lacks a function, or is older than 2.18.
  static NcclLibrary open();

  std::string name;
  int version;  // 22809 is 2.28.9
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommFinalize) comm_finalize;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclReduceScatter) reduce_scatter;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
