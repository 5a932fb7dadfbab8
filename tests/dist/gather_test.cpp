#include "anneal/dist/gather.h"

#include "anneal/core/ops.h"
#include "anneal/tests/dist/groups.h"

namespace anneal::testing {
namespace {

using Values = std::vector<double>;

// T-772
TEST(Gather, JoinsAlongTheFirstDimension) {
  ThreadEngine::run(3, [](ProcessGroup& group) {
    const double rank = group.rank();
    const Tensor rows = dist::gather(group, full({2, 2}, rank));
    EXPECT_EQ(rows.shape(), Shape({6, 2}));
    EXPECT_EQ(rows.to_vector(), (Values{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}));
    EXPECT_EQ(dist::gather(group, scalar(rank, {.dtype = DType::i64})).to_vector(), (Values{0, 1, 2}));
  });
}

TEST(Gather, PadsOrSaysWhoHasWhat) {
  ThreadEngine::run(2, [](ProcessGroup& group) {
    const Tensor mine = full({1 + group.rank(), 2}, 1);
    const Tensor rows = dist::gather(group, mine, -1);
    EXPECT_EQ(rows.shape(), Shape({4, 2}));
    EXPECT_EQ(rows.to_vector(), (Values{1, 1, -1, -1, 1, 1, 1, 1}));
    const std::string error = error_of([&] { dist::gather(group, mine); });
    expect_contains(error, "rank 0 has [1, 2], rank 1 has [2, 2]");
    expect_contains(error, "padding_value");
    expect_contains(error_of([&] { dist::gather(group, ones({2, 1 + group.rank()}), 0); }), "rank 1 has [2, 2]");
    expect_contains(error_of([&] {
                      dist::gather(group, group.rank() == 0 ? ones({2}) : ones({2, 1}), 0);
                    }),
                    "rank 0 has [2]");
    group.barrier();  // all ranks have thrown, and the group still works
  });
}

}  // namespace
}  // namespace anneal::testing
