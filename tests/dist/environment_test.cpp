#include "anneal/dist/environment.h"

#include <gtest/gtest.h>

#include <map>

#include "anneal/core/error.h"
#include "anneal/dist/slurm.h"
#include "anneal/tests/temp_folder.h"

namespace anneal::dist {
namespace {

using testing::message_of;
using Variables = std::map<std::string, std::string>;

std::optional<RankEnvironment> found(const Variables& variables) {
  return rank_environment([&](const char* name) {
    const auto entry = variables.find(name);
    return entry == variables.end() ? nullptr : entry->second.c_str();
  });
}
std::string text_of(const std::optional<RankEnvironment>& env) {
  if (!env) return "alone";
  return format("{}/{} {}/{} {}:{} {}", env->rank, env->world_size, env->local_rank, env->local_world_size,
                env->master_addr, env->master_port, env->token);
}
/// What comes of the variables with some changed; an empty value takes one away.
std::string result(Variables variables, const Variables& changes = {}) {
  for (const auto& [name, value] : changes) {
    variables[name] = value;
    if (value.empty()) variables.erase(name);
  }
  std::string text;
  const std::string error = message_of<ConfigError>([&] { text = text_of(found(variables)); });
  return error.empty() ? text : error;
}

const Variables torchrun{{"RANK", "3"},
                         {"WORLD_SIZE", "8"},
                         {"LOCAL_RANK", "1"},
                         {"LOCAL_WORLD_SIZE", "2"},
                         {"MASTER_ADDR", "node1"},
                         {"MASTER_PORT", "29500"}};
const Variables open_mpi{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"PMIX_NAMESPACE", "2743926785"}};
const Variables slurm{{"SLURM_STEP_ID", "2"}, {"SLURM_JOB_ID", "20007"},
                      {"SLURM_PROCID", "6"},  {"SLURM_NTASKS", "7"},
                      {"SLURM_LOCALID", "0"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"},
                      {"SLURM_NODEID", "3"},  {"SLURM_STEP_NODELIST", "node[08-10],gpu1"}};

TEST(RankEnvironmentTest, IsAloneWithoutALauncher) {
  EXPECT_EQ(result({}), "alone");
  EXPECT_EQ(result({{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "1"}, {"LOCAL_RANK", "0"}}), "alone");
}

TEST(RankEnvironmentTest, ReadsTorchrun) {
  EXPECT_EQ(result(torchrun), "3/8 1/2 node1:29500 ");
  EXPECT_EQ(result(torchrun, {{"ANNEAL_TOKEN", "abc"}}), "3/8 1/2 node1:29500 abc");
}

TEST(RankEnvironmentTest, LeavesTorchrunItsOwnPort) {
  Variables agent = torchrun;
  agent["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  const auto env = found(agent);
  EXPECT_GE(env->master_port, 12000);
  EXPECT_LT(env->master_port, 32000);
  EXPECT_EQ(found(agent)->master_port, env->master_port);
  EXPECT_EQ(result(agent, {{"ANNEAL_MASTER_PORT", "7"}}), "3/8 1/2 node1:7 ");
  EXPECT_EQ(result(agent, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}}), "3/8 1/2 node1:29500 ");
}

TEST(RankEnvironmentTest, SaysWhatIsMissing) {
  for (const Variables& launcher : {torchrun, open_mpi, slurm})
    for (const auto& [name, value] : launcher) {
      // Without these Open MPI's and Slurm's are not there at all.
      if (name == "OMPI_COMM_WORLD_SIZE" || name == "SLURM_STEP_ID" || name == "SLURM_NTASKS") continue;
      EXPECT_TRUE(result(launcher, {{name, ""}}).starts_with(name + " is not set, and ")) << name;
    }
  EXPECT_EQ(result({{"RANK", "3"}}),
            "WORLD_SIZE is not set, and torchrun's variables (RANK, WORLD_SIZE and others) need it");
}

TEST(RankEnvironmentTest, ChecksNumbers) {
  EXPECT_EQ(result(torchrun, {{"RANK", "8"}}), "RANK=8: expected 0 to 7");
  EXPECT_EQ(result(torchrun, {{"RANK", "-1"}}), "RANK=-1: expected 0 to 7");
  EXPECT_EQ(result(torchrun, {{"LOCAL_RANK", "2"}}), "LOCAL_RANK=2: expected 0 to 1");
  EXPECT_EQ(result(torchrun, {{"LOCAL_WORLD_SIZE", "9"}}), "LOCAL_WORLD_SIZE=9: expected 1 to 8");
  EXPECT_EQ(result(torchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE=0: expected 1 to 1048576");
  EXPECT_EQ(result(torchrun, {{"MASTER_PORT", "65536"}}), "MASTER_PORT=65536: expected 1 to 65535");
  for (const char* const bad : {"x", "3x", " 3", "3 ", "+3", "3.0", "0x3", "99999999999999999999"})
    EXPECT_EQ(result(torchrun, {{"RANK", bad}}), format("RANK={}: expected a number", bad));
}

TEST(RankEnvironmentTest, ReadsOpenMpi) {
  const auto env = found(open_mpi);
  EXPECT_EQ(env->rank, 1);
  EXPECT_EQ(env->master_addr, "127.0.0.1");
  EXPECT_GE(env->master_port, 12000);
  EXPECT_LT(env->master_port, 32000);
  Variables first = open_mpi, other_job = open_mpi;
  first["OMPI_COMM_WORLD_RANK"] = first["OMPI_COMM_WORLD_LOCAL_RANK"] = "0";
  other_job["PMIX_NAMESPACE"] = "2743926786";
  EXPECT_EQ(found(first)->master_port, env->master_port);
  EXPECT_NE(found(other_job)->master_port, env->master_port);
  EXPECT_EQ(result(open_mpi, {{"OMPI_COMM_WORLD_SIZE", "1"}}), "alone");
  // On several machines it must be told where rank 0 is.
  const Variables several{{"OMPI_COMM_WORLD_SIZE", "4"}, {"ANNEAL_MASTER_PORT", "700"}};
  EXPECT_EQ(result(open_mpi, several), "ANNEAL_MASTER_ADDR is not set, and Open MPI's variables need it");
  Variables told = open_mpi;
  told["ANNEAL_MASTER_ADDR"] = "node1";
  EXPECT_EQ(result(told, several), "1/4 1/2 node1:700 ");
}

TEST(RankEnvironmentTest, ReadsSlurm) {
  EXPECT_EQ(result(slurm), "6/7 0/1 node08:12021 ");
  EXPECT_EQ(result(slurm, {{"SLURM_PROCID", "3"}, {"SLURM_NODEID", "1"}, {"SLURM_LOCALID", "1"}}),
            "3/7 1/2 node08:12021 ");
  EXPECT_EQ(result(slurm, {{"ANNEAL_MASTER_ADDR", "::1"}, {"ANNEAL_MASTER_PORT", "9"}}), "6/7 0/1 ::1:9 ");
  EXPECT_EQ(result(slurm, {{"SLURM_NODEID", "4"}}), "'2(x3),1': expected as many nodes as there are at character 8");
}

TEST(RankEnvironmentTest, ABatchScriptIsNoRank) {
  EXPECT_EQ(result(slurm, {{"SLURM_STEP_ID", ""}}), "alone");
  EXPECT_EQ(result(slurm, {{"SLURM_NTASKS", "1"}}), "alone");
}

TEST(RankEnvironmentTest, TakesTheLauncherThatIsNearest) {
  Variables all = slurm;
  all.insert(open_mpi.begin(), open_mpi.end());
  EXPECT_TRUE(result(all).starts_with("1/2 1/2 127.0.0.1:"));
  all.insert(torchrun.begin(), torchrun.end());
  EXPECT_EQ(result(all), "3/8 1/2 node1:29500 ");
}

TEST(Slurm, FindsTheFirstHost) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[08-10,12],gpu1"), "node08");
  EXPECT_EQ(first_host("r[1-2]c[3,5]n[008-009]-ib"), "r1c3n008-ib");
  for (const char* const bad :
       {"", ",a", "a,", "a[", "a[]", "a[1", "a[1-", "a[1-]", "a[x]", "a[1,]", "a]", "a,b[1", "[1]]"})
    EXPECT_NE(message_of<Error>([&] { first_host(bad); }), "") << bad;
  EXPECT_NE(message_of<Error>([] { first_host(std::string(300, 'x')); }), "");
  EXPECT_NE(message_of<Error>([] { first_host(std::string(2 << 20, 'x')); }), "");
}

TEST(Slurm, CountsTasksOfANode) {
  EXPECT_EQ(tasks_on_node("4", 0), 4);
  EXPECT_EQ(tasks_on_node("2(x3),1", 2), 2);
  EXPECT_EQ(tasks_on_node("2(x3),1", 3), 1);
  for (const char* const bad : {"", "x", "2(", "2(x", "2(x3", "2x3", "2,", "99999999999999999999"})
    EXPECT_NE(message_of<Error>([&] { tasks_on_node(bad, 5); }), "") << bad;
}

}  // namespace
}  // namespace anneal::dist
