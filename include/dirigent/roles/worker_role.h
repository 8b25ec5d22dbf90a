// SPDX-License-Identifier: MIT
//
// The worker role: wires a keeper to a runtime and to the control plane. Nothing is decided here. One loop; runtimes
// have helper threads of their own for system calls that block.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/model/node.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::roles {

struct WorkerRoleOptions {
  std::vector<std::string> control;   // tried in turn
  NodeInfo node;                      // `id` and `capacity` are set; runtime and host_id are filled in
  std::string admin_listen;           // "" = none
  std::uint32_t launches_max = 64;    // at a time
  Duration stop_grace = 10s;          // TERM to KILL
};

class WorkerRole {
 public:
  virtual ~WorkerRole() = default;

  // Opens the runtime (which cleans up after an earlier life of the node) and begins to look for the control plane.
  static io::Task<std::unique_ptr<WorkerRole>> start(io::Loop& loop, WorkerRoleOptions options,
                                                     std::unique_ptr<sandbox::Runtime> runtime);

  [[nodiscard]] virtual std::string admin_address() const = 0;
  [[nodiscard]] virtual const NodeInfo& node() const = 0;
  [[nodiscard]] virtual bool joined() const = 0;  // to a control plane, now
  // What the runtime cannot enforce here, one sentence each.
  [[nodiscard]] virtual std::vector<std::string> weaknesses() const = 0;

  // Tells the control plane, lets requests finish within `drain`, then ends every sandbox and takes the runtime down.
  // Must be awaited once before destruction.
  virtual io::Action stop(Duration drain) = 0;
};

// What this machine has: the CPUs this process may use, and its memory (or its cgroup's limit, when that is less).
Resources machine_capacity();
// A name for this node: the host's name, made acceptable.
NodeId machine_node_id();

}  // namespace dirigent::roles
