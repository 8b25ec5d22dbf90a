// SPDX-License-Identifier: MIT
//
// Placement: which node gets a new sandbox. The index holds what the policies need of every node and is kept current by
// the fleet; choosing looks at few nodes, never at all of them. Formulas: docs/policies.md.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/result.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/resources.h"

namespace dirigent::policy {

enum class PlacementKind {
  random,             // uniform among the nodes that fit
  round_robin,        // node order, the next one that fits
  kubernetes,         // LeastAllocated + BalancedAllocation + image locality, 0..100 each
  best_fit,           // the fullest node that still fits
  dominant_resource,  // least dominant share after placing (dominant-resource fairness)
};
std::string_view to_string(PlacementKind kind);
Result<PlacementKind> parse_placement(std::string_view word);  // unknown: an error with a suggestion
const std::vector<std::string>& placement_names();

struct NodeView {
  NodeId id;
  Resources capacity;
  Resources reserved;
  std::uint32_t sandboxes = 0;
  std::uint32_t sandboxes_max = 0;  // 0 = no limit
  bool schedulable = true;          // alive, not cordoned or draining
  std::uint32_t pending = 0;        // placed or starting on it
  std::uint32_t starts_max = 0;     // the most of these; 0 = no limit
  std::map<std::string, std::string> labels;
  std::vector<std::string> images;  // known to be on the node, sorted
};

struct PlacementRequest {
  Resources resources;
  std::string image;
  std::span<const std::string> constraints;  // "k=v", "k!=v"
  std::span<const NodeId> excluded;          // refused or failed this sandbox's predecessors just now
};

// The record of one decision.
struct PlacementDecision {
  PlacementKind kind = PlacementKind::kubernetes;
  NodeId node;
  double score = 0;
  std::uint32_t considered = 0;  // nodes looked at
  std::string note;              // "least allocated 62 + balanced 97 + image 0"
};

class NodeIndex {
 public:
  virtual ~NodeIndex() = default;
  virtual void upsert(const NodeView& node) = 0;
  virtual void remove(const NodeId& id) = 0;
  // Cheap updates of one node's load (on every placement and end). Unknown ids are ignored.
  virtual void set_load(const NodeId& id, const Resources& reserved, std::uint32_t sandboxes,
                        std::uint32_t pending) = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;
  // Errors: exhausted (no room; says what is missing most), unavailable (no node at all), invalid_argument
  // (constraint).
  virtual Result<PlacementDecision> choose(const PlacementRequest& request, Rng& rng) = 0;
};
std::unique_ptr<NodeIndex> make_node_index(PlacementKind kind);

}  // namespace dirigent::policy
