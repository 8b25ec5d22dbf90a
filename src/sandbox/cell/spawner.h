// SPDX-License-Identifier: MIT
//
// The spawner: one small process per worker that forks cells (a fork of the worker itself would copy the page tables of
// everything it holds) and that outlives the worker by the moment it takes to remove all of its sandboxes.
#pragma once

namespace dirigent::sandbox::cell {

// Serves the worker on wire::kSpawnerSocket until it is gone; returns the process's exit code.
int run_spawner();

}  // namespace dirigent::sandbox::cell
