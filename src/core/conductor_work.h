// SPDX-License-Identifier: MIT
//
// One input of the conductor while it is being handled.
#pragma once

#include <set>

#include "dirigent/core/conductor.h"

namespace dirigent::core {

struct Conductor::Work {
  Instant now;
  ConductorEffects& effects;
  std::set<FunctionName> routes{};  // that changed: sent once, at the end
  std::set<SessionId> complete{};   // data planes that are told all routes
  bool confirm = false;             // somebody waits until the routes are applied
};

// A revision that is there. Sandboxes of a revision that was forgotten meanwhile are treated as old ones.
inline bool is_pending(SandboxState state) { return state == SandboxState::placed || state == SandboxState::starting; }

}  // namespace dirigent::core
