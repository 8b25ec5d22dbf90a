// SPDX-License-Identifier: MIT
//
// The program that lives inside sandboxes. The worker carries it as bytes and starts it as its spawner; in containers it
// is the program of builtin images.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "sandbox/cell/builtin.h"
#include "sandbox/cell/spawner.h"
#include "sandbox/cell/wire.h"

namespace {

int terminator = -1;

void on_term(int) {
  const auto kind = static_cast<std::uint8_t>(dirigent::sandbox::wire::Kind::terminate);
  [[maybe_unused]] const auto ignored = ::send(terminator, &kind, sizeof kind, MSG_NOSIGNAL);
}

std::string variable(const char* name) {
  const char* value = ::getenv(name);
  return value != nullptr ? value : "";
}

// A builtin function as the only program of a container: told by its environment, ended by TERM.
int run_builtin(const char* name, const char* node) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return 1;
  terminator = ends[1];
  struct sigaction action {};
  action.sa_handler = on_term;
  ::sigaction(SIGTERM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  dirigent::sandbox::wire::Order order;
  order.builtin = name;
  order.node = node;
  order.revision = variable("REVISION");
  order.port = static_cast<std::uint32_t>(::atoi(variable("PORT").c_str()));
  for (char** line = ::environ; *line != nullptr; ++line) order.environment.emplace_back(*line);
  const auto now = dirigent::sandbox::cell::now_us();
  const auto end = dirigent::sandbox::cell::serve_builtin(order, ends[0], now, now);
  if (!end.failure) return end.exit_code;
  const std::string text = end.failure.text + "\n";
  [[maybe_unused]] const auto ignored = ::write(2, text.data(), text.size());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 4 && ::strcmp(arguments[1], "builtin") == 0) return run_builtin(arguments[2], arguments[3]);
  struct stat status {};
  if (::fstat(dirigent::sandbox::wire::kSpawnerSocket, &status) != 0 || !S_ISSOCK(status.st_mode)) {
    constexpr char kText[] = "this program is started by a dirigent worker only\n";
    [[maybe_unused]] const auto ignored = ::write(2, kText, sizeof kText - 1);
    return 2;
  }
  // Started from a file without a path, it would be called by the number of its descriptor; what it starts inherits this.
  ::prctl(PR_SET_NAME, "dirigent-cell", 0, 0, 0);
  // The worker's descriptors are none of a sandbox's business.
  ::syscall(SYS_close_range, 4u, ~0u, 0u);
  if (count == 3 && ::strcmp(arguments[1], "hello") == 0) {
    // For the benchmark of the floor: the builtin function alone, with nothing around it.
    dirigent::sandbox::wire::Order order;
    order.builtin = "hello";
    order.revision = "floor";
    order.port = static_cast<std::uint32_t>(::atoi(arguments[2]));
    const auto now = dirigent::sandbox::cell::now_us();
    return dirigent::sandbox::cell::serve_builtin(order, dirigent::sandbox::wire::kSpawnerSocket, now, now).exit_code;
  }
  return dirigent::sandbox::cell::run_spawner();
}
