// SPDX-License-Identifier: MIT
#include "sandbox/oci/launcher.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "dirigent/io/file_descriptor.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kStackBytes = 64 * 1024;

struct Child {
  const Command* command;
  char* const* arguments;
  char* const* environment;
  int null;
  const char* step = "";
  int error = 0;
};

// Runs in the worker's memory on a stack of its own: system calls only, nothing that allocates or locks.
__attribute__((no_sanitize("address", "undefined", "thread"))) int become_program(void* argument) {
  auto* child = static_cast<Child*>(argument);
  const auto fail = [child](const char* step) {
    child->step = step;
    child->error = errno;
    ::_exit(127);
  };
  const Command& command = *child->command;
  // It ends with the worker's thread, and so with the worker: nobody is left to make a container for.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // By version 1 a thread joins alone and at once, while whoever moves a process waits for the kernel.
  for (const int cgroup : command.cgroups) {
    if (::write(cgroup, "0", 1) != 1) fail("join its cgroup");
  }
  // Handlers of the worker must not run here: everything is back to its default before a signal may come.
  struct sigaction plain {};
  plain.sa_handler = SIG_DFL;
  for (int signal = 1; signal < 32; ++signal) ::sigaction(signal, &plain, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  if (::dup2(command.input < 0 ? child->null : command.input, 0) < 0 ||
      ::dup2(command.output < 0 ? child->null : command.output, 1) < 0 ||
      ::dup2(command.errors < 0 ? child->null : command.errors, 2) < 0)
    fail("arrange its descriptors");
  ::syscall(SYS_close_range, 3u, ~0u, static_cast<unsigned>(CLOSE_RANGE_CLOEXEC));
  ::setsid();
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(child->arguments[0], child->arguments, child->environment);
  fail("be executed");
  return 127;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (const auto& text : texts) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

}  // namespace

Result<pid_t> launch_program(const Command& command) {
  const io::FileDescriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.is_open()) return errno_failure(errno, "cannot open /dev/null");
  const auto arguments = pointers(command.arguments);
  const auto environment = pointers(command.environment);
  void* stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return errno_failure(errno, "cannot make a stack");
  Child child{&command, arguments.data(), environment.data(), null.get()};
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  const pid_t pid = ::clone(&become_program, static_cast<char*>(stack) + kStackBytes, CLONE_VM | CLONE_VFORK | SIGCHLD, &child);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::munmap(stack, kStackBytes);
  if (pid < 0) return errno_failure(error, fmt::format("cannot start {}", command.arguments[0]));
  if (child.error != 0) {
    ::waitpid(pid, nullptr, 0);
    return errno_failure(child.error, fmt::format("cannot start {}: it could not {}", command.arguments[0], child.step));
  }
  return pid;
}

void reap_orphans(const std::string& name) {
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child;) {
      // "PID (COMMAND) STATE PARENT GROUP ...": the command may have blanks and parentheses in it.
      std::ifstream file(fmt::format("/proc/{}/stat", child));
      std::string text;
      std::getline(file, text);
      const std::size_t begin = text.find('(');
      const std::size_t end = text.rfind(')');
      if (begin == std::string::npos || end == std::string::npos || text.compare(begin + 1, name.size(), name) != 0) continue;
      std::istringstream rest(text.substr(end + 1));
      char state = 0;
      pid_t parent = 0;
      pid_t group = 0;
      rest >> state >> parent >> group;
      if (state == 'Z' && group != child) ::waitpid(child, nullptr, WNOHANG);
    }
  }
}

Result<int> run_program(const Command& command) {
  auto pid = launch_program(command);
  if (!pid) return failure(pid.error());
  int status = 0;
  while (::waitpid(*pid, &status, 0) < 0) {
    if (errno != EINTR) return errno_failure(errno, fmt::format("cannot wait for {}", command.arguments[0]));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace dirigent::sandbox
