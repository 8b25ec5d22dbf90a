// SPDX-License-Identifier: MIT
//
// Runs tasks on a loop of the test's own, and looks for what a runtime may have left on the machine.
#pragma once

#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "catch.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/sandbox/process_runtime.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox::test {

template <class T>
io::Action keep_result(io::Task<T> task, std::optional<Result<T>>& result, io::Loop& loop) {
  Result<T> got = co_await std::move(task);
  result.emplace(std::move(got));
  loop.stop();
}

class Harness {
 public:
  Harness() : group_(loop, "test") {}
  ~Harness() { group_.drain_now(); }

  // Runs the loop until the task has ended.
  template <class T>
  Result<T> run(io::Task<T> task) {
    std::optional<Result<T>> result;
    group_.spawn(keep_result(std::move(task), result, loop));
    while (!result) loop.run();
    return std::move(*result);
  }
  // Runs the loop until `condition` holds, looking every few milliseconds; false after `patience`.
  bool until(const std::function<bool()>& condition, Duration patience = 20s);

  io::Loop loop;

 private:
  io::TaskGroup group_;
};

// A runtime that is open, with the ends it has told.
class OpenRuntime {
 public:
  OpenRuntime(Harness& harness, std::unique_ptr<Runtime> opened);
  ~OpenRuntime();
  Result<Launched> launch(StartSandbox order) { return harness_.run(runtime->launch(std::move(order))); }
  // Launches, and waits for the end.
  SandboxEnd launch_to_end(const StartSandbox& order);
  std::string output(SandboxId id) const;

  std::unique_ptr<Runtime> runtime;
  std::vector<std::pair<SandboxId, SandboxEnd>> ends;

 private:
  Harness& harness_;
};

StartSandbox order_for(const std::string& image, std::vector<std::string> arguments = {});
ProcessRuntimeOptions process_options(const std::string& node);
// One GET on its own connection: the body; "" when nothing answers.
std::string get(Harness& harness, const std::string& address, const std::string& request_head);

bool is_root();
// "exec:" + the path of the probe program.
std::string probe_image();
std::string probe_path();
// Names of what a process runtime of this node has on the machine now: cgroups, links, mounts, tables, processes.
std::vector<std::string> leftovers(const std::string& node);
// A directory of the test's own, removed with its content.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  std::string path;
};

// An address of this host that is not a loopback one; "" when there is none.
std::string own_address();
// Publishing switches forwarding on for good: the test puts back what it found.
struct KeepForwarding {
  KeepForwarding() { std::ifstream(path) >> before; }
  ~KeepForwarding() { std::ofstream(path) << before; }
  const char* path = "/proc/sys/net/ipv4/ip_forward";
  std::string before = "0";
};

// A listener of this test's process on every address of the host, as a service of the host would be.
struct Listener {
  Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();
  int fd = -1;
  int port = 0;
};

}  // namespace dirigent::sandbox::test

#define NEEDS_ROOT()                                            \
  if (!::dirigent::sandbox::test::is_root()) {                  \
    WARN("skipped: the process runtime at full strength needs root"); \
    return;                                                     \
  }
