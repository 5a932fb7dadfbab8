// TCP sockets that never block.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace anneal {
inline namespace v0 {
namespace dist {

/// Owns a file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }

 private:
  int fd_;
};

/// A connection and what is yet to be sent on it.
class Stream {
 public:
  explicit Stream(FileDescriptor socket) : socket_(std::move(socket)) {}

  int get() const { return socket_.get(); }
  void send(std::string_view bytes) { outbox_ += bytes; }
  std::size_t unsent() const { return outbox_.size(); }
  /// Sends what the socket takes; false when the connection is broken.
  bool flush();
  /// What has arrived, empty for nothing; none when the connection is closed or broken and all of it has been read.
  std::optional<std::string> read();
  /// Nothing more will be sent: the other end sees it when it has read the rest.
  void finish();

 private:
  FileDescriptor socket_;
  std::string outbox_;
};

/// Listens at a name or address, IPv4 or IPv6, port 0 for any. Throws Error naming them.
FileDescriptor listen_at(const std::string& host, std::uint16_t port, int backlog);
/// The next one who has connected; none when nobody waits.
std::optional<FileDescriptor> accept_from(const FileDescriptor& listener);
/// Connects to one of the host's addresses; each may take `limit`. Throws Error with the reason alone.
FileDescriptor connect_to(const std::string& host, std::uint16_t port, std::chrono::milliseconds limit);

/// This end of a connection or listener: the numeric address, the port.
std::string address_of(int socket);
std::uint16_t port_of(int socket);
/// "node1:29500", "[::1]:29500".
std::string endpoint(const std::string& host, std::uint16_t port);

}  // namespace dist
}  // namespace v0
}  // namespace anneal
