// SPDX-License-Identifier: MIT
//
// The root of a sandbox. At full strength a cell never has the host's files: the spawner moves into a template (a small
// read-only root with /dev), of which every cell gets a copy with its namespaces, and what an image needs of the host
// comes with the order as detached mounts. Without root (user namespaces) a cell begins with a copy of the host's mounts
// and leaves them.
#pragma once

#include <cstdint>
#include <vector>

#include "sandbox/cell/steps.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

// Moves this process into a mount namespace of its own that has the template and nothing else.
Failure enter_template();
// Adds what each cell has for itself: /proc, /dev/pts, /dev/shm, and at full strength /tmp.
Failure prepare_root(wire::Isolation isolation, std::uint64_t tmp_bytes);
// Hides of /proc what concerns the host. After this nothing of /proc/sys can be written.
Failure mask_proc(wire::Isolation isolation);
// Completes the root for the order and moves into it; nothing of the host is left but what the order names.
Failure enter_root(wire::Isolation isolation, const wire::Order& order, const std::vector<int>& trees);

}  // namespace dirigent::sandbox::cell
