// SPDX-License-Identifier: MIT
//
// The program that lives inside sandboxes. The worker carries it as bytes and starts it as its spawner; it has no other
// use.
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "sandbox/cell/builtin.h"
#include "sandbox/cell/spawner.h"
#include "sandbox/cell/wire.h"

int main(int count, char** arguments) {
  struct stat status {};
  if (::fstat(dirigent::sandbox::wire::kSpawnerSocket, &status) != 0 || !S_ISSOCK(status.st_mode)) {
    constexpr char kText[] = "this program is started by a dirigent worker only\n";
    [[maybe_unused]] const auto ignored = ::write(2, kText, sizeof kText - 1);
    return 2;
  }
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
