// SPDX-License-Identifier: MIT
//
// Eviction: which sandboxes go when there are more than wanted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/model/sandbox.h"

namespace dirigent::policy {

struct EvictionCandidate {
  SandboxId id;
  SandboxState state = SandboxState::ready;  // placed, starting or ready
  bool is_current_revision = true;
  std::uint32_t in_flight = 0;  // as last reported or estimated
  Duration idle_for{};          // 0 while in_flight > 0
  Duration age{};
};

// The indices of `count` candidates to end, in order. Never a busy one before an idle one; within idle and busy those
// of an old revision first; then those that do not serve yet (youngest first); then idle longest first, or least busy
// first. REQUIRES: count <= candidates.size().
std::vector<std::size_t> choose_victims(std::span<const EvictionCandidate> candidates, std::size_t count);

}  // namespace dirigent::policy
