// SPDX-License-Identifier: MIT
//
// Spreads the creations and removals of all functions over time, so that no epoch has more of either than the cluster
// can do: creations move earlier, removals later. The cluster-wide part of the `predictive` autoscaler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dirigent::policy {

// One series of sandboxes per epoch for each function, all of one length. After smooth_up no step of all of them
// together creates more than `creations_max`, except the first when even earlier is not possible.
void smooth_up(std::span<std::vector<std::uint32_t>> series, std::uint32_t creations_max);
// The same for removals: no step removes more than `removals_max`.
void smooth_down(std::span<std::vector<std::uint32_t>> series, std::uint32_t removals_max);

}  // namespace dirigent::policy
