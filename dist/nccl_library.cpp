#if ANNEAL_HAS_NCCL

#include "anneal/dist/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace dist {

NcclLibrary NcclLibrary::open() {
  constexpr int oldest = 21800;
  NcclLibrary library{};
  const char* chosen = std::getenv("ANNEAL_NCCL_LIBRARY");
  library.name = chosen && *chosen ? chosen : "libnccl.so.2";
  // Never closed: NCCL has threads of its own.
  void* const handle = ::dlopen(library.name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    throw Error(format("NCCL: {}; install NCCL 2.18 or newer, or set ANNEAL_NCCL_LIBRARY to its file", ::dlerror()));
  const auto find = [&]<class F>(F& function, const char* symbol) {
    function = reinterpret_cast<F>(::dlsym(handle, symbol));
    check(function != nullptr, "NCCL: {} has no {}", library.name, symbol);
  };
  find(library.get_version, "ncclGetVersion");
  check(library.get_version(&library.version) == ncclSuccess && library.version >= oldest,
        "NCCL: {} is version {}; 2.18 ({}) or newer is needed", library.name, library.version, oldest);
  find(library.get_unique_id, "ncclGetUniqueId");
  find(library.comm_init_rank_config, "ncclCommInitRankConfig");
  find(library.comm_finalize, "ncclCommFinalize");
  find(library.comm_destroy, "ncclCommDestroy");
  find(library.comm_abort, "ncclCommAbort");
  find(library.comm_get_async_error, "ncclCommGetAsyncError");
  find(library.get_error_string, "ncclGetErrorString");
  find(library.get_last_error, "ncclGetLastError");
  find(library.all_reduce, "ncclAllReduce");
  find(library.broadcast, "ncclBroadcast");
  find(library.all_gather, "ncclAllGather");
  find(library.reduce_scatter, "ncclReduceScatter");
  return library;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal

#endif
