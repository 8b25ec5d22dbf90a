// SPDX-License-Identifier: MIT
//
// Takes from the calling process what a function must not have: identity, capabilities, new privileges, system calls,
// descriptors. There is no way back.
#pragma once

#include "sandbox/cell/steps.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

// Empties the ambient and the bounding set: no program that is executed from here on gains a capability.
Failure drop_capabilities();

// Ahead of the order: what neither the function nor any step of an order needs.
Failure confine_parked();

// With the order, after confine_parked(): the rest. `files_max`: RLIMIT_NOFILE, hard and soft, as far as the present hard
// limit allows.
Failure confine(wire::Isolation isolation, const wire::Order& order, unsigned long files_max);

}  // namespace dirigent::sandbox::cell
