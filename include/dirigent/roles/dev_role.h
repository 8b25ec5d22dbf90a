// SPDX-License-Identifier: MIT
//
// The three roles in one process and on one loop, connected by the same RPC as anywhere else (over a Unix socket or
// loopback), so that there is one code path.
#pragma once

#include <memory>

#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/roles/control_role.h"
#include "dirigent/roles/data_role.h"
#include "dirigent/roles/runtime_choice.h"
#include "dirigent/roles/worker_role.h"

namespace dirigent::roles {

struct DevRoleOptions {
  ControlRoleOptions control;
  DataRoleOptions data;       // `control` is filled in
  WorkerRoleOptions worker;   // `control` is filled in
  RuntimeChoice runtime;
  Duration ready_timeout = 10s;  // for data plane and worker to join the control plane
};

class DevRole {
 public:
  virtual ~DevRole() = default;

  // Returns when functions can be deployed and invoked. On failure nothing is left running.
  static io::Task<std::unique_ptr<DevRole>> start(io::Loop& loop, DevRoleOptions options);

  [[nodiscard]] virtual const ControlRole& control() const = 0;
  [[nodiscard]] virtual const DataRole& data() const = 0;
  [[nodiscard]] virtual const WorkerRole& worker() const = 0;

  // Data plane first (no new requests), then worker, then control. Must be awaited once before destruction.
  virtual io::Action stop(Duration drain) = 0;
};

}  // namespace dirigent::roles
