// Every differentiable op against finite differences, once and, where it can be, twice.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <set>

#include "anneal/core/gradcheck.h"
#include "anneal/tests/core/gradient_cases_all.h"

#if !defined(ANNEAL_FIXTURES)
#define ANNEAL_FIXTURES "tests/fixtures"
#endif

using namespace anneal;
using namespace anneal::testing;

namespace {

const std::vector<GradientCase>& all_cases() {
  static const std::vector<GradientCase> cases = gradient_cases();
  return cases;
}

class OpsGradient : public ::testing::TestWithParam<std::size_t> {};

TEST_P(OpsGradient, MatchesFiniteDifferences) {
  const GradientCase& c = all_cases()[GetParam()];
  SCOPED_TRACE(c.name);
  const std::vector<Tensor> leaves = leaves_of(c);
  const GradcheckReport report = gradcheck(c.f, leaves, {.twice = c.second == Second::checked});
  EXPECT_TRUE(report.ok) << report.where;

  const Tensor y = c.f(leaves);
  const auto differentiate = [&] { return grad(y, leaves, {.create_graph = true}, uniform(y.shape())); };
  if (c.second == Second::throws) {
    const std::string op = c.name.substr(0, c.name.find(' '));
    try {
      differentiate();
      FAIL() << "can be differentiated again";
    } catch (const Error& error) {
      const std::string what = error.what(), named = what.substr(0, what.find(':'));
      EXPECT_TRUE(op.ends_with(named)) << op << ", " << named;  // add_layer_norm has layer_norm's
      EXPECT_EQ(what, named + ": its gradient is a fused kernel and cannot be differentiated again (create_graph)");
    }
    return;
  }
  // A second derivative that is left out would pass for one that is zero.
  const std::vector<Tensor> gradients = differentiate();
  const bool depends =
      std::any_of(gradients.begin(), gradients.end(), [](const Tensor& g) { return g.requires_grad(); });
  EXPECT_EQ(depends, c.second == Second::checked);
}

INSTANTIATE_TEST_SUITE_P(All, OpsGradient, ::testing::Range(std::size_t{0}, all_cases().size()));

// Padding rows get no gradient, which finite differences cannot see; neither in the second derivative.
TEST(OpsGradientList, EmbeddingPaddingGetsNone) {
  const Tensor index = indices({2, 0, 2, 1}, {4});
  const Tensor table = uniform({3, 2}).set_requires_grad();
  const Tensor weights = uniform({4, 2}, -2, 2, 3);
  const Tensor scale = ones({4, 2}, {.dtype = DType::f64, .requires_grad = true});
  const Tensor first = grad(embedding(index, table, 2), {table}, {.create_graph = true}, weights * scale)[0];
  const std::vector<double> w = weights.to_vector();
  EXPECT_EQ(first.to_vector(), (std::vector<double>{w[2], w[3], w[6], w[7], 0, 0}));
  const Tensor second = grad(sum(first), {scale})[0];
  EXPECT_EQ(second.to_vector(), (std::vector<double>{0, 0, w[2], w[3], 0, 0, w[6], w[7]}));
}

// The names that a header declares between two lines: functions or methods that return tensors.
std::set<std::string> names_in(const std::string& header, const std::string& from, const std::string& to) {
  std::ifstream file(std::string(ANNEAL_FIXTURES) + "/../../core/" + header);
  EXPECT_TRUE(file.good()) << header;
  const std::regex function(R"(^ *(?:inline )?(?:Tensor|std::vector<Tensor>) (operator.|\w+)\()");
  std::set<std::string> names;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.find(from) != std::string::npos) inside = true;
    if (!to.empty() && line.find(to) != std::string::npos) inside = false;
    std::smatch match;
    if (inside && std::regex_search(line, match, function)) names.insert(match[1]);
  }
  return names;
}

TEST(OpsGradientList, NamesEveryOp) {
  std::set<std::string> listed;
  for (const GradientCase& c : all_cases()) listed.insert(c.name.substr(0, c.name.find(' ')));
  // Not differentiable, or (the last three) the templates behind the unary ops, their gradients and the comparisons.
  const std::set<std::string> exempt{"eq",      "ne",       "lt",      "le",         "gt",     "ge",
                                     "argmax",  "argmin",   "one_hot", "pin_memory", "rand",   "randn",
                                     "randint", "randperm", "unary",   "unary_grad", "compare"};
  std::set<std::string> wanted = names_in("ops.h", "namespace", "");
  EXPECT_GT(wanted.size(), 80u) << "the header is no longer understood";
  const std::set<std::string> views = names_in("tensor.h", "---- copies ----", "---- autograd");
  EXPECT_GT(views.size(), 11u) << "the header is no longer understood";
  wanted.insert(views.begin(), views.end());
  for (const std::string& name : wanted)
    EXPECT_NE(listed.contains(name), exempt.contains(name)) << name << " has no gradient test";
}

}  // namespace
