// SPDX-License-Identifier: MIT
//
// Decisions in words: why this many sandboxes, why this node, and what would have changed it. The alternatives are
// computed by calling the deciding functions again with one input changed, so they cannot disagree with them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/placement.h"

namespace dirigent::policy {

// Lines for people, without a line break: "why 3 sandboxes", then one "  name       text" for each input and the
// result, then "what would change it: ..." (only for knative, whose decision can be computed again). `settings` and
// `concurrency_limit` are those the decision was made with; `now` is for "ends in 54 s".
std::vector<std::string> describe(const ScalingDecision& decision, const ScalingSettings& settings,
                                  std::uint32_t concurrency_limit, Instant now);

struct WhatIf {
  std::string change;     // "utilisation 100%"
  std::uint32_t desired;  // what the same load would have given
};
// Each with one setting changed and the bounds kept. Empty when the decision had no data or is not knative's.
std::vector<WhatIf> what_if(const ScalingDecision& decision, const ScalingSettings& settings,
                            std::uint32_t concurrency_limit);

// The same for a placement: the node's numbers after placing, and where the other policies would have gone given the
// same nodes (as they were before the decision) and request.
std::vector<std::string> describe(const PlacementDecision& decision, const PlacementRequest& request,
                                  std::span<const NodeView> nodes);

}  // namespace dirigent::policy
