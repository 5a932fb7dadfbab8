// The instruction-set levels in one library, and the choice among them.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "anneal/kernels/cpu/levels.h"

namespace anneal {
namespace {

using kernels::cpu::choose_level;
using kernels::cpu::Level;
using kernels::cpu::levels;

std::string error_of(const std::string& name) {
  try {
    choose_level(name);
    return "none";
  } catch (const std::runtime_error& e) { return e.what(); }
}

TEST(Dispatch, TheBestLevelThatTheProcessorSupportsIsChosen) {
  std::string best;
  for (const Level& level : levels()) {
    if (best.empty() && level.supported()) best = level.name;
  }
  EXPECT_EQ(choose_level("").name, best);
}

TEST(Dispatch, TheEnvironmentNamesTheLevelInUse) {
  const char* isa = std::getenv("ANNEAL_ISA");
  EXPECT_STREQ(kernels::cpu::isa(), choose_level(isa ? isa : "").name);
  std::printf("instruction set: %s\n", kernels::cpu::isa());  // scripts/soak looks for it
}

TEST(Dispatch, EachSupportedLevelIsChosenByItsNameAndComputes) {
  constexpr int n = 67;  // more than a tile, and no multiple of a vector
  const std::vector<float> a(n * n, 2), b(n * n, 0.5);
  for (const Level& level : levels()) {
    if (!level.supported()) continue;
    EXPECT_EQ(&choose_level(level.name), &level);
    std::vector<float> c(n * n);
    kernels::Gemm product{};
    product.dtype = product.out = DType::f32;
    product.m = product.n = product.k = product.lda = product.ldb = product.ldc = n;
    product.batch = 1;
    product.a = a.data();
    product.b = b.data();
    product.c = c.data();
    static_cast<const kernels::cpu::Entry<kernels::Gemm>&>(*level.table).run(product);
    EXPECT_EQ(c, std::vector<float>(n * n, n)) << level.name;
  }
}

TEST(Dispatch, AnUnknownOrUnsupportedLevelIsAnErrorThatListsTheOthers) {
  std::string built, usable;
  std::vector<std::string> wrong{"mmx"};
  for (const Level& level : levels()) {
    built += (built.empty() ? "" : ", ") + std::string(level.name);
    if (level.supported()) usable += (usable.empty() ? "" : ", ") + std::string(level.name);
    else wrong.push_back(level.name);
  }
  for (const std::string& name : wrong) {
    EXPECT_EQ(error_of(name), "ANNEAL_ISA: got " + name + "; the library has " + built +
                                  ", of which this processor supports " + usable);
  }
}

}  // namespace
}  // namespace anneal
