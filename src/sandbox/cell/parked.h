// SPDX-License-Identifier: MIT
//
// The life of one cell, as the first process of its pid namespace: joins its cgroups, prepares what every sandbox
// needs, waits for an order, becomes the sandbox, and stays as its init (or serves the builtin function itself).
#pragma once

#include <string>
#include <vector>

#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

struct ParkingPlace {
  wire::Isolation isolation = wire::Isolation::full;
  wire::Networking networking = wire::Networking::none;
  int netns = -1;            // a kept one
  bool is_urgent = false;    // somebody waits for it
  std::uint64_t tmp_bytes = 0;
  bool may_raise_priority = false;  // so that a cell that nobody waits for yet can stand back
  int control = -1;
  int output = -1;
  int errors = -1;
  std::vector<int> cgroups;  // cgroup.procs, open for writing
  unsigned outer_uid = 0;    // of the worker, for the user namespace's map
  unsigned outer_gid = 0;
};

[[noreturn]] void live_parked(const ParkingPlace& place);

}  // namespace dirigent::sandbox::cell
