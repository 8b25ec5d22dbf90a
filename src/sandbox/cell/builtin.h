// SPDX-License-Identifier: MIT
//
// The builtin functions hello, echo, sleep, stream, fail and trace: a small HTTP/1.1 server on one epoll, run by the
// cell itself, so that trying the platform needs no image and measuring it measures the platform.
#pragma once

#include "sandbox/cell/steps.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

struct BuiltinEnd {
  int exit_code = 0;
  Failure failure;  // could not start at all
};

// Listens, tells the worker so on `control`, and serves until told to terminate, to exit, or the worker is gone.
BuiltinEnd serve_builtin(const wire::Order& order, int control, unsigned long long received_us,
                         unsigned long long rooted_us);

}  // namespace dirigent::sandbox::cell
