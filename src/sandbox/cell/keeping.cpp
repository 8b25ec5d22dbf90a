// SPDX-License-Identifier: MIT
#include "sandbox/cell/keeping.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace dirigent::sandbox::cell {

namespace {

constexpr int kSuccessorTimeoutS = 5;  // a worker that takes over is busy with nothing else

void close_all(const std::vector<int>& fds) {
  for (const int fd : fds) ::close(fd);
}

void drain(int pipe) {
  const int capacity = ::fcntl(pipe, F_GETPIPE_SZ);
  char buffer[4096];
  for (;;) {
    int waiting = 0;
    if (capacity <= 0 || ::ioctl(pipe, FIONREAD, &waiting) != 0 || waiting <= capacity / 2) return;
    // Never waits: there is more than this in it, and nobody else reads.
    if (::read(pipe, buffer, sizeof buffer) <= 0) return;
  }
}

}  // namespace

Keeping::Kept* Keeping::find(std::uint32_t key) {
  for (auto& one : kept_) {
    if (one.key == key) return &one;
  }
  return nullptr;
}

void Keeping::keep(wire::Reader& in, const std::vector<int>& fds) {
  Kept one;
  one.key = in.u32();
  one.fds_wanted = in.u32();
  one.pipes = in.u32();
  one.record = in.text();
  one.fds = fds;
  forget(one.key);
  if (in.ok()) kept_.push_back(std::move(one));
  else close_all(fds);
}

void Keeping::keep_fds(wire::Reader& in, const std::vector<int>& fds) {
  if (Kept* one = find(in.u32())) one->fds.insert(one->fds.end(), fds.begin(), fds.end());
  else close_all(fds);
}

void Keeping::note(wire::Reader& in) {
  if (Kept* one = find(in.u32())) one->record = in.text();
}

void Keeping::forget(std::uint32_t key) {
  for (auto one = kept_.begin(); one != kept_.end(); ++one) {
    if (one->key != key) continue;
    close_all(one->fds);
    *one = std::move(kept_.back());
    kept_.pop_back();
    return;
  }
}

bool Keeping::has(std::uint32_t key) const {
  return std::any_of(kept_.begin(), kept_.end(), [key](const Kept& one) { return one.key == key; });
}

void Keeping::drop_incomplete() {
  for (std::size_t i = kept_.size(); i-- > 0;) {
    if (kept_[i].fds.size() != kept_[i].fds_wanted) forget(kept_[i].key);
  }
}

void Keeping::drain_output() const {
  for (const auto& one : kept_) {
    for (std::size_t i = 0; i < one.pipes && i < one.fds.size(); ++i) drain(one.fds[i]);
  }
}

int Keeping::tell_one(int socket, const Kept& one, std::uint32_t pid) {
  wire::Writer first(wire::Kind::kept);
  first.u32(one.key).u32(pid).u32(one.fds_wanted).text(one.record);
  std::size_t sent = std::min<std::size_t>(one.fds.size(), wire::kFdsMax);
  if (const int error = wire::send_message(socket, first.bytes(), one.fds.data(), static_cast<int>(sent))) return error;
  while (sent < one.fds.size()) {
    const std::size_t count = std::min<std::size_t>(one.fds.size() - sent, wire::kFdsMax);
    wire::Writer more(wire::Kind::kept_fds);
    more.u32(one.key);
    if (const int error = wire::send_message(socket, more.bytes(), one.fds.data() + sent, static_cast<int>(count))) return error;
    sent += count;
  }
  return 0;
}

int listen_for_successor(const std::string& node) {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = wire::kAdoptName + node;
  const std::size_t size = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), size);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && ::listen(fd, 4) == 0) return fd;
  ::close(fd);
  return -1;
}

int accept_successor(int listener, std::string& identity) {
  const int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) return -1;
  ucred peer{};
  socklen_t size = sizeof peer;
  const timeval patience{kSuccessorTimeoutS, 0};
  const std::string call = wire::kAdoptCall;
  std::string bytes;
  // An abstract name can be connected to by anybody in this network namespace.
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid() &&
      ::setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
      ::setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
      wire::receive_message(connection, bytes, nullptr, true) > 0 && bytes.rfind(call, 0) == 0) {
    identity = bytes.substr(call.size());
    return connection;
  }
  ::close(connection);
  return -1;
}

}  // namespace dirigent::sandbox::cell
