#include "anneal/dist/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "anneal/core/error.h"
#include "anneal/dist/socket.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::vector<std::string> own_arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  check(!arguments.empty(), "launcher: cannot read /proc/self/cmdline");
  return arguments;
}

std::vector<std::string> environment_with(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    if (!variables.contains(std::string(text.substr(0, text.find('='))))) all.emplace_back(text);
  }
  for (const auto& [name, value] : variables) all.push_back(name + '=' + value);
  return all;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// What posix_spawn shall do between fork and exec.
class SpawnPlan {
 public:
  SpawnPlan() {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawnattr_init(&attributes);
    // The thread that starts them may block signals; they shall hear SIGTERM.
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
};

pid_t spawn_self(std::vector<std::string> arguments, std::vector<std::string> environment) {
  const SpawnPlan plan;
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, "/proc/self/exe", &plan.files, &plan.attributes, pointers_to(arguments).data(),
                                  pointers_to(environment).data());
  check(error == 0, "launcher: cannot start this program again: {}", std::strerror(error));
  return pid;
}

}  // namespace

std::string random_token() {
  std::array<unsigned char, 32> bytes;
  for (std::size_t have = 0; have < bytes.size();) {
    const ssize_t count = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    check(count > 0 || errno == EINTR, "no random numbers: {}", std::strerror(errno));
    have += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  }
  std::string token;
  for (const unsigned char byte : bytes)
    for (const int digit : {byte >> 4, byte & 15}) token += "0123456789abcdef"[digit];
  return token;
}

/// The processes that were started; their end kills those that are left.
class LocalRanks::Children {
 public:
  explicit Children(milliseconds grace) : grace_(grace) {}
  ~Children() {
    for (const Child& child : running_) ::kill(child.pid, SIGTERM);
    for (const auto end = steady_clock::now() + grace_; !running_.empty() && steady_clock::now() < end;) {
      std::for_each(running_.begin(), running_.end(), kill_if_stopped);
      wait_for_one(milliseconds(20));
    }
    for (const Child& child : running_) ::kill(child.pid, SIGKILL);
    wait();
  }
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  void start(std::vector<std::string> arguments, std::vector<std::string> environment) {
    const pid_t pid = spawn_self(std::move(arguments), std::move(environment));
    running_.push_back({pid, FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))});
  }
  int wait() {
    while (!running_.empty()) wait_for_one(std::chrono::seconds(1));
    return code_;
  }

 private:
  struct Child {
    pid_t pid;
    FileDescriptor handle;  // readable when the process has ended
  };

  void wait_for_one(milliseconds limit) {
    std::vector<pollfd> handles;
    for (const Child& child : running_) handles.push_back({child.handle.get(), POLLIN, 0});
    ::poll(handles.data(), handles.size(), static_cast<int>(limit.count()));
    std::erase_if(running_, [this](const Child& child) {
      int status = 0;
      const pid_t ended = ::waitpid(child.pid, &status, WNOHANG);
      if (ended != child.pid) return ended != 0;  // an error: this program lets the system reap its children
      const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      if (code_ == 0) code_ = code;
      return true;
    });
  }

  /// A stopped process does not hear that it shall end.
  static void kill_if_stopped(const Child& child) {
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(child.pid), &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
      ::kill(child.pid, SIGKILL);
  }

  milliseconds grace_;
  std::vector<Child> running_;
  int code_ = 0;
};

LocalRanks::LocalRanks(int n, std::uint16_t port, const std::string& token, milliseconds grace)
    : children_(std::make_unique<Children>(grace)) {
  check<ConfigError>(n > 0, "ranks: {}; must be positive", n);
  check(!std::getenv("ANNEAL_LAUNCHED"), "launcher: this process is a rank that was started by another");
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  std::map<std::string, std::string> variables{
      {"WORLD_SIZE", std::to_string(n)}, {"LOCAL_WORLD_SIZE", std::to_string(n)},
      {"MASTER_ADDR", "127.0.0.1"},      {"MASTER_PORT", std::to_string(port)},
      {"ANNEAL_TOKEN", token},           {"ANNEAL_LAUNCHED", "1"},
  };
  if (!std::getenv("OMP_NUM_THREADS"))
    variables["OMP_NUM_THREADS"] = std::to_string(std::max(1U, cores / static_cast<unsigned>(n)));
  for (int rank = 1; rank < n; ++rank) {
    variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(rank);
    children_->start(own_arguments(), environment_with(variables));
  }
}
LocalRanks::~LocalRanks() = default;

int LocalRanks::wait() { return children_->wait(); }

}  // namespace dist
}  // namespace v0
}  // namespace anneal
