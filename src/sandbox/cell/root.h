// SPDX-License-Identifier: MIT
//
// The file system of a cell, in two halves: what every root needs is mounted while the cell is being parked, what
// the order names is added when it comes. Runs in the cell's own mount namespace, before any privilege is dropped.
#pragma once

#include "sandbox/cell/steps.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

// Makes the mount namespace private and prepares a new root with /dev and a masked /proc below /sys (which the cell
// does not need and which no image lies under).
Failure prepare_root(wire::Isolation isolation);
// Completes the root for the order and moves into it; the host's tree is gone afterwards.
Failure enter_root(const wire::Order& order);

}  // namespace dirigent::sandbox::cell
