// Freezing parts of a model.
#include <gtest/gtest.h>

#include "anneal/core/error.h"
#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"

namespace anneal_test {
namespace {

using namespace anneal;
using Names = std::vector<std::string>;

struct Net : nn::Module {
  nn::Linear first{{this, "first"}, 2, 3};
  nn::Sequential middle{{this, "middle"}, nn::Linear(3, 3), nn::BatchNorm1d(3)};
  nn::Linear last{{this, "last"}, 3, 1};
};

Names names(const std::vector<NamedTensor>& parameters) {
  Names list;
  for (const NamedTensor& p : parameters) list.push_back(p.name);
  return list;
}
Names trainable(Net& net) { return names(nn::filter_params(net)); }

const Names first{"first.weight", "first.bias"}, linear{"middle.0.weight", "middle.0.bias"},
    norm{"middle.1.weight", "middle.1.bias"}, last{"last.weight", "last.bias"};
Names operator+(Names a, const Names& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Freezing, BatchNormsTrainOnUnlessTheyAreFrozenToo) {
  Net net;
  nn::freeze(net);
  EXPECT_EQ(trainable(net), norm);
  EXPECT_EQ(names(nn::filter_params(net, false)), Names());
  EXPECT_EQ(names(nn::filter_params(net, true, false)), first + linear + last);
  nn::freeze(net, false);
  EXPECT_EQ(trainable(net), Names());
  nn::make_trainable(net.middle, false);
  EXPECT_EQ(trainable(net), linear) << "batch norms stay as they are";
  nn::make_trainable(net);
  EXPECT_EQ(trainable(net), first + linear + norm + last);
}

TEST(Freezing, AFrozenBatchNormKeepsItsStatistics) {
  nn::BatchNorm1d layer(2);
  const Tensor x = tensor({1, 2, 3, 4}, {2, 2});
  nn::freeze(layer, false);
  EXPECT_EQ(layer(x).to_vector()[0], -layer(x).to_vector()[2]) << "it still normalises by the batch";
  EXPECT_EQ(layer.running_mean.to_vector(), (std::vector<double>{0, 0}));
  EXPECT_EQ(layer.num_batches_tracked.item(), 0);
  nn::make_trainable(layer);
  layer(x);
  EXPECT_NE(layer.running_mean.to_vector(), (std::vector<double>{0, 0}));
  EXPECT_EQ(layer.num_batches_tracked.item(), 1);
}

TEST(ModelFreezer, WorksOnTheDirectChildren) {
  Net net;
  nn::freeze(net, false);
  nn::ModelFreezer freezer(net);
  EXPECT_EQ(trainable(net), first + linear + norm + last) << "it begins with everything unfrozen";

  const auto frozen = freezer.freeze();
  ASSERT_EQ(frozen.size(), 2);
  EXPECT_EQ(frozen[0].name, "first");
  EXPECT_EQ(names(frozen[1].parameters), linear + norm);
  EXPECT_EQ(trainable(net), norm + last);

  EXPECT_EQ(freezer.unfreeze(-2, -3).size(), 2) << "ends in either order";
  EXPECT_EQ(trainable(net), first + linear + norm + last);
  nn::ModelFreezer(net, true).freeze(1, 1);
  EXPECT_EQ(trainable(net), first + last);
  EXPECT_EQ(freezer.unfreeze().size(), 3);
  EXPECT_EQ(trainable(net), first + linear + norm + last);
  EXPECT_THROW(freezer.freeze(0, 3), Error);
  EXPECT_THROW(freezer.freeze(-4), Error);
}

}  // namespace
}  // namespace anneal_test
