#include "anneal/tests/dist/spawn_ranks.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <thread>

#include "anneal/dist/launcher.h"
#include "anneal/dist/socket.h"
#include "anneal/dist/store_server.h"

namespace anneal::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* kFunction = "ANNEAL_TEST_RANK_FUNCTION";

struct Function {
  std::function<int()> run;
  bool joins_by_itself = false;
};
std::map<std::string, Function>& functions() {
  static std::map<std::string, Function> all;
  return all;
}

std::string contents(int file) {
  std::string text;
  char part[4096];
  ::lseek(file, 0, SEEK_SET);
  for (ssize_t count = 0; (count = ::read(file, part, sizeof part)) > 0;)
    text.append(part, static_cast<std::size_t>(count));
  return text;
}

/// A process of this program; its group is its own, so that nothing it starts is left.
struct Process {
  pid_t pid = 0;
  dist::FileDescriptor err{::memfd_create("stderr", MFD_CLOEXEC)};
  int code = -1;
  bool ended = false;

  explicit Process(const std::map<std::string, std::string>& variables) {
    std::vector<std::string> environment;
    for (char** entry = environ; *entry; ++entry)
      if (!variables.contains(std::string(*entry, std::strcspn(*entry, "=")))) environment.emplace_back(*entry);
    for (const auto& [name, value] : variables) environment.push_back(name + '=' + value);
    std::vector<char*> pointers;
    for (std::string& entry : environment) pointers.push_back(entry.data());
    pointers.push_back(nullptr);
    char name[] = "rank";
    char* arguments[] = {name, nullptr};

    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&files, err.get(), STDERR_FILENO);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    const int error = ::posix_spawn(&pid, "/proc/self/exe", &files, &attributes, arguments, pointers.data());
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
    if (error != 0) throw std::runtime_error(std::strerror(error));
  }
  ~Process() {
    ::kill(-pid, SIGKILL);
    if (!ended) reap(0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void reap(int options) {
    int status = 0;
    if (::waitpid(pid, &status, options) != pid) return;
    ended = true;
    code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  bool stopped() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
  }
};

}  // namespace

double time_scale() {
  const char* const text = std::getenv("ANNEAL_TEST_TIMESCALE");
  return text ? std::max(1.0, std::atof(text)) : 1.0;
}

RankFunction::RankFunction(const std::string& name, RankBody body) {
  functions()[name].run = [body] {
    const dist::RankEnvironment env = dist::rank_environment().value();
    dist::Store store({.host = env.master_addr,
                       .port = env.master_port,
                       .rank = env.rank,
                       .world_size = env.world_size,
                       .token = env.token,
                       .failure_timeout = test_failure_timeout(),
                       .rendezvous_timeout = scaled(std::chrono::seconds(10))});
    return body(env, store);
  };
}
RankFunction::RankFunction(const std::string& name, WorldBody body) { functions()[name] = {body, true}; }

std::vector<int> RankResults::codes() const {
  std::vector<int> all;
  for (const RankResult& rank : ranks) all.push_back(rank.exit_code);
  return all;
}

RankResults spawn_ranks(int n, const std::string& function, const std::map<std::string, std::string>& variables,
                        milliseconds deadline) {
  if (!functions().contains(function)) throw std::runtime_error("no rank function " + function);
  const auto start = steady_clock::now();
  const std::string token = dist::random_token();
  const bool joins_by_itself = functions().at(function).joins_by_itself;
  const milliseconds failure_timeout = joins_by_itself ? scaled(std::chrono::seconds(10)) : test_failure_timeout();
  const dist::StoreServer server({.world_size = n, .token = token, .failure_timeout = failure_timeout});
  std::map<std::string, std::string> all = variables;
  all.insert({{kFunction, function},
              {"WORLD_SIZE", std::to_string(n)},
              {"LOCAL_WORLD_SIZE", std::to_string(n)},
              {"MASTER_ADDR", "127.0.0.1"},
              {"MASTER_PORT", std::to_string(server.port())},
              {"ANNEAL_TOKEN", token}});
  if (joins_by_itself) all.insert({"ANNEAL_LAUNCHED", "1"});  // rank 0 need not make a server
  std::vector<std::unique_ptr<Process>> processes;
  for (int rank = 0; rank < n; ++rank) {
    all["RANK"] = std::to_string(rank);
    all["LOCAL_RANK"] = std::to_string(rank % std::stoi(all["LOCAL_WORLD_SIZE"]));
    processes.push_back(std::make_unique<Process>(all));
  }

  RankResults results;
  const auto over = [](const auto& process) { return process->ended || process->stopped(); };
  do {
    std::this_thread::sleep_for(milliseconds(5));
    for (const auto& process : processes)
      if (!process->ended) process->reap(WNOHANG);
    results.timed_out = steady_clock::now() - start > scaled(deadline);
  } while (!std::all_of(processes.begin(), processes.end(), over) && !results.timed_out);

  for (const auto& process : processes) {
    ::kill(-process->pid, SIGKILL);
    if (!process->ended) process->reap(0);
    results.ranks.push_back({process->code, contents(process->err.get())});
  }
  results.took = std::chrono::duration_cast<milliseconds>(steady_clock::now() - start);
  return results;
}

std::optional<int> run_as_rank() {
  const char* const name = std::getenv(kFunction);
  if (!name) return {};
  try {
    return functions().at(name).run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}

}  // namespace anneal::testing
