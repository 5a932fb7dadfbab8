#include <cstdlib>

#include "anneal/dist/nccl_group.h"
#include "anneal/tests/dist/groups.h"

namespace anneal::testing {
namespace {

#if ANNEAL_HAS_NCCL

TEST(Nccl, AMissingLibraryIsAClearError) {
  ::setenv("ANNEAL_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
  const std::string text = error_of([] { dist::nccl_version(); });
  ::unsetenv("ANNEAL_NCCL_LIBRARY");
  expect_contains(text, "/nowhere/libnccl.so.2");
  expect_contains(text, "ANNEAL_NCCL_LIBRARY");
}

TEST(Nccl, ALibraryThatIsNotNcclIsAClearError) {
  ::setenv("ANNEAL_NCCL_LIBRARY", "libm.so.6", 1);
  const std::string text = error_of([] { dist::nccl_version(); });
  ::unsetenv("ANNEAL_NCCL_LIBRARY");
  EXPECT_EQ(text, "NCCL: libm.so.6 has no ncclGetVersion");
}

TEST(Nccl, TheLibraryHasAllFunctionsAndAVersion) {
  int version = 0;
  const std::string text = error_of([&] { version = dist::nccl_version(); });
  if (text.find("cannot open shared object file") != text.npos) GTEST_SKIP() << "NOT TESTED: " << text;
  EXPECT_EQ(text, "");
  EXPECT_GE(version, 21800);
}

#else

TEST(Nccl, IsAnErrorInALibraryWithoutCuda) {
  expect_contains(error_of([] { dist::nccl_version(); }), "built without CUDA");
  expect_contains(error_of([] { dist::nccl_group(nullptr); }), "built without CUDA");
}

#endif

}  // namespace
}  // namespace anneal::testing
