#include "anneal/dist/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Addresses resolve(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  check(error == 0, "{}", error == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(error));
  return {found, ::freeaddrinfo};
}

void enable(int socket, int level, int option) {
  const int on = 1;
  ::setsockopt(socket, level, option, &on, sizeof on);
}

FileDescriptor open_socket(const addrinfo& address) {
  return FileDescriptor(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// 0 or the error.
int connect_within(int socket, const addrinfo& address, std::chrono::milliseconds limit) {
  if (::connect(socket, address.ai_addr, address.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd ready{.fd = socket, .events = POLLOUT, .revents = 0};
  const int count = ::poll(&ready, 1, static_cast<int>(limit.count()));
  if (count <= 0) return count == 0 ? ETIMEDOUT : errno;
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

/// One end of a socket as text: address and port. `which` is getsockname or getpeername.
std::pair<std::string, std::string> name_of(int socket, decltype(::getsockname)* which) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "0";
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  if (which(socket, name, &size) == 0)
    ::getnameinfo(name, size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  return {host, port};
}

/// A port that nobody listens at may be the one that the system gives to this end: it then connects to itself.
bool connected_to_itself(int socket) { return name_of(socket, ::getsockname) == name_of(socket, ::getpeername); }

bool try_later() { return errno == EAGAIN || errno == EWOULDBLOCK; }

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool Stream::flush() {
  while (!outbox_.empty()) {
    const ssize_t sent = ::send(get(), outbox_.data(), outbox_.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return try_later();
    outbox_.erase(0, static_cast<std::size_t>(sent));
  }
  return true;
}

std::optional<std::string> Stream::read() {
  std::string bytes(1 << 16, '\0');
  ssize_t count = 0;
  do { count = ::recv(get(), bytes.data(), bytes.size(), 0); } while (count < 0 && errno == EINTR);
  if (count < 0 && try_later()) return std::string();
  if (count <= 0) return {};
  bytes.resize(static_cast<std::size_t>(count));
  return bytes;
}

void Stream::finish() {
  flush();
  ::shutdown(get(), SHUT_WR);
}

FileDescriptor listen_at(const std::string& host, std::uint16_t port, int backlog) {
  std::string why;
  try {
    const Addresses found = resolve(host, port, AI_PASSIVE);
    for (const addrinfo* address = found.get(); address; address = address->ai_next) {
      FileDescriptor socket = open_socket(*address);
      if (socket.get() >= 0) {
        enable(socket.get(), SOL_SOCKET, SO_REUSEADDR);
        if (::bind(socket.get(), address->ai_addr, address->ai_addrlen) == 0 && ::listen(socket.get(), backlog) == 0)
          return socket;
      }
      why = std::strerror(errno);
    }
  } catch (const Error& error) { why = error.what(); }
  throw Error(format("store: cannot listen at {}: {}", endpoint(host, port), why));
}

std::optional<FileDescriptor> accept_from(const FileDescriptor& listener) {
  FileDescriptor socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.get() < 0) return {};
  enable(socket.get(), IPPROTO_TCP, TCP_NODELAY);
  return socket;
}

FileDescriptor connect_to(const std::string& host, std::uint16_t port, std::chrono::milliseconds limit) {
  const Addresses found = resolve(host, port, 0);
  int error = 0;
  for (const addrinfo* address = found.get(); address; address = address->ai_next) {
    FileDescriptor socket = open_socket(*address);
    error = socket.get() < 0 ? errno : connect_within(socket.get(), *address, limit);
    if (error == 0 && connected_to_itself(socket.get())) error = ECONNREFUSED;
    if (error == 0) {
      enable(socket.get(), IPPROTO_TCP, TCP_NODELAY);
      return socket;
    }
  }
  throw Error(std::strerror(error));
}

std::string address_of(int socket) { return name_of(socket, ::getsockname).first; }
std::uint16_t port_of(int socket) {
  return static_cast<std::uint16_t>(std::stoi(name_of(socket, ::getsockname).second));
}

std::string endpoint(const std::string& host, std::uint16_t port) {
  return format(host.find(':') == std::string::npos ? "{}:{}" : "[{}]:{}", host, port);
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
