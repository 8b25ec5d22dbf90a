// SPDX-License-Identifier: MIT
#include "sandbox/process/spawner.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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

Spawner& Spawner::operator=(Spawner&& other) noexcept {
  std::swap(socket_, other.socket_);
  std::swap(pid_, other.pid_);
  return *this;
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

void Spawner::stop() {
  if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  if (pid_ > 0) {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }
}

}  // namespace dirigent::sandbox
