// SPDX-License-Identifier: MIT
#include "dirigent/io/signals.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "catch.h"

using namespace dirigent;
using namespace dirigent::io;

TEST_CASE("signals: the first SIGTERM calls back on the loop, once") {
  Loop loop;
  std::vector<int> seen;
  {
    auto watcher = SignalWatcher::open(loop, [&](int number) {
      seen.push_back(number);
      loop.stop();
    });
    REQUIRE(watcher.has_value());
    ::raise(SIGTERM);
    loop.run();
    CHECK(seen == std::vector<int>{SIGTERM});
  }
  // Another watcher can follow, and starts anew.
  auto watcher = SignalWatcher::open(loop, [&](int number) {
    seen.push_back(number);
    loop.stop();
  });
  REQUIRE(watcher.has_value());
  ::raise(SIGINT);
  loop.run();
  CHECK(seen == std::vector<int>{SIGTERM, SIGINT});
}

TEST_CASE("signals: what was set before is restored") {
  struct sigaction before {};
  ::sigaction(SIGTERM, nullptr, &before);
  {
    Loop loop;
    const auto watcher = SignalWatcher::open(loop, [](int) {});
    struct sigaction during {};
    ::sigaction(SIGTERM, nullptr, &during);
    CHECK(during.sa_handler != before.sa_handler);
  }
  struct sigaction after {};
  ::sigaction(SIGTERM, nullptr, &after);
  CHECK(after.sa_handler == before.sa_handler);
}

TEST_CASE("signals: the second one ends the process with 130, even when the loop does not run") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    Loop loop;
    const auto watcher = SignalWatcher::open(loop, [](int) {});
    ::raise(SIGINT);
    ::raise(SIGTERM);
    ::_exit(1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
}

TEST_CASE("signals: writing to a closed pipe is an error and not the end") {
  ignore_sigpipe();
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  CHECK(::write(ends[1], "x", 1) == -1);
  CHECK(errno == EPIPE);
  ::close(ends[1]);
}
