// SPDX-License-Identifier: MIT
#include "sandbox/process/spawner.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

// The cell program, from embedded_cell.S.
extern "C" const char dirigent_cell_begin[];
extern "C" const char dirigent_cell_end[];

namespace dirigent::sandbox {

namespace {

// A memory file that nobody can write to any more: a sandbox that reaches its own /proc/self/exe finds nothing to
// change.
Result<int> make_program() {
  const std::span<const char> bytes(dirigent_cell_begin, dirigent_cell_end);
#ifndef MFD_EXEC
  constexpr unsigned MFD_EXEC = 0x10;
#endif
  int fd = ::memfd_create("dirigent-cell", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (fd < 0 && errno == EINVAL) fd = ::memfd_create("dirigent-cell", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return errno_failure(errno, "cannot make a memory file for the cell program");
  std::size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t size = ::write(fd, bytes.data() + written, bytes.size() - written);
    if (size <= 0) {
      const int error = errno;
      ::close(fd);
      return errno_failure(error, "cannot write the cell program to its memory file");
    }
    written += static_cast<std::size_t>(size);
  }
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    ::close(fd);
    return errno_failure(error, "cannot seal the cell program");
  }
  return fd;
}

}  // namespace

std::string cell_program_fingerprint() {
  // FNV-1a: two builds are told apart, nobody is kept from forging one.
  static const std::uint64_t value = [] {
    std::uint64_t hash = 14695981039346656037ULL;
    for (const char byte : std::span<const char>(dirigent_cell_begin, dirigent_cell_end))
      hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211ULL;
    return hash;
  }();
  return fmt::format("{:016x}", value);
}

Spawner& Spawner::operator=(Spawner&& other) noexcept {
  std::swap(socket_, other.socket_);
  std::swap(pid_, other.pid_);
  std::swap(process_, other.process_);
  return *this;
}

Spawner::~Spawner() {
  if (!process_.is_open()) stop();
  else if (socket_ >= 0) ::close(socket_);
}

Result<Spawner> Spawner::take_over(int socket) {
  Spawner spawner;
  spawner.socket_ = socket;
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
    spawner.process_ = io::FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  if (spawner.process_.is_open()) return spawner;
  const int error = errno;
  ::close(std::exchange(spawner.socket_, -1));
  return errno_failure(error, "cannot watch the spawner of an earlier life");
}

Result<Spawner> Spawner::start() {
  auto program = make_program();
  if (!program) return failure(program.error());
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    const int error = errno;
    ::close(*program);
    return errno_failure(error, "cannot make a socket pair");
  }
  // posix_spawn shares the worker's memory until exec: no page table is copied, however large the worker is.
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  // dup2 to its own number would leave close-on-exec set.
  const int source = ends[1] == wire::kSpawnerSocket ? ::fcntl(ends[1], F_DUPFD_CLOEXEC, 10) : ends[1];
  ::posix_spawn_file_actions_adddup2(&actions, source, wire::kSpawnerSocket);
  const std::string path = fmt::format("/proc/self/fd/{}", *program);
  char name[] = "dirigent-cell";
  char* const arguments[] = {name, nullptr};
  char* const environment[] = {nullptr};
  pid_t pid = -1;
  // The path names a descriptor of the child's: the file must not have the number that the socket gets.
  int program_fd = *program;
  std::string program_path = path;
  if (program_fd == wire::kSpawnerSocket) {
    program_fd = ::fcntl(program_fd, F_DUPFD_CLOEXEC, 10);
    program_path = fmt::format("/proc/self/fd/{}", program_fd);
    ::close(*program);
  }
  const int error = ::posix_spawn(&pid, program_path.c_str(), &actions, nullptr, arguments, environment);
  ::posix_spawn_file_actions_destroy(&actions);
  if (source != ends[1]) ::close(source);
  ::close(ends[1]);
  ::close(program_fd);
  if (error != 0) {
    ::close(ends[0]);
    return errno_failure(error, "cannot start the spawner (is /proc mounted?)");
  }
  Spawner spawner;
  spawner.socket_ = ends[0];
  spawner.pid_ = pid;
  return spawner;
}

Status Spawner::send(const wire::Writer& message, const std::vector<int>& fds) const {
  const int error = wire::send_message(socket_, message.bytes(), fds.data(), static_cast<int>(fds.size()));
  if (error != 0) return errno_failure(error, "cannot talk to the spawner");
  return {};
}

Status Spawner::keep(std::uint32_t key, const std::string& record, const std::vector<int>& fds, std::uint32_t pipes) const {
  std::size_t sent = std::min<std::size_t>(fds.size(), wire::kFdsMax);
  wire::Writer first(wire::Kind::keep);
  first.u32(key).u32(static_cast<std::uint32_t>(fds.size())).u32(pipes).text(record);
  Status status = send(first, {fds.begin(), fds.begin() + static_cast<std::ptrdiff_t>(sent)});
  while (status && sent < fds.size()) {
    const std::size_t count = std::min<std::size_t>(fds.size() - sent, wire::kFdsMax);
    const auto begin = fds.begin() + static_cast<std::ptrdiff_t>(sent);
    status = send(wire::Writer(wire::Kind::keep_fds).u32(key), {begin, begin + static_cast<std::ptrdiff_t>(count)});
    sent += count;
  }
  return status;
}

Status Spawner::note(std::uint32_t key, const std::string& record) const {
  return send(wire::Writer(wire::Kind::note).u32(key).text(record));
}

Status Spawner::forget(std::uint32_t key) const { return send(wire::Writer(wire::Kind::forget).u32(key)); }

void Spawner::stop() {
  if (socket_ >= 0) {
    static_cast<void>(wire::send_message(socket_, wire::Writer(wire::Kind::farewell).bytes()));
    ::close(std::exchange(socket_, -1));
  }
  if (process_.is_open()) {
    pollfd ended{process_.get(), POLLIN, 0};
    while (::poll(&ended, 1, -1) < 0 && errno == EINTR) {
    }
    process_.reset();
  }
  if (pid_ > 0) {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }
}

}  // namespace dirigent::sandbox
