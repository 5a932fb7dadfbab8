// Tests whose program is also that of the ranks which they start.
#include <gtest/gtest.h>

#include "anneal/tests/dist/spawn_ranks.h"

int main(int argc, char** argv) {
  if (const std::optional<int> code = anneal::testing::run_as_rank()) return *code;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
