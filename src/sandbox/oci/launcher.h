// SPDX-License-Identifier: MIT
//
// Starts a program without copying the worker: the child shares the worker's memory until it executes (clone with
// CLONE_VM and CLONE_VFORK), so that a worker of a gigabyte starts it as fast as a small one. Unlike posix_spawn it can
// put the child into cgroups first.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::sandbox {

struct Command {
  std::vector<std::string> arguments;    // the first is the program's path
  std::vector<std::string> environment;
  int input = -1;  // descriptors for 0, 1 and 2; -1 = /dev/null
  int output = -1;
  int errors = -1;
  std::vector<int> cgroups;              // "tasks" or "cgroup.procs" files, opened for writing; the child joins each
};

// The child's id; whoever calls must wait for it. Blocks until the child has executed. Any thread.
Result<pid_t> launch_program(const Command& command);

// Launches and waits. The result is the exit code, or 128 + the signal. The program leads a process group of its own.
Result<int> run_program(const Command& command);

// Waits for the ended children of this process whose command begins with `name` and that lead no process group: helpers
// of a launched program that have become children of this process (a "subreaper") when their parent ended before them.
// What launch_program() starts is never one of them.
void reap_orphans(const std::string& name);

}  // namespace dirigent::sandbox
