// SPDX-License-Identifier: MIT
//
// The nodes as placement needs them: a compact array that filters walk, buckets by how full a node is, the nodes of
// every image and label, and the order of names. Slots are reused and never move, so an index stays valid until its
// node is removed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dirigent/policy/placement.h"

namespace dirigent::policy {

using NodeSlot = std::uint32_t;

// The nodes that have something: as a list to walk, and as bits to ask.
struct NodeSet {
  std::vector<NodeSlot> nodes;
  std::vector<std::uint64_t> bits;

  [[nodiscard]] bool has(NodeSlot slot) const {
    return slot / 64 < bits.size() && (bits[slot / 64] >> (slot % 64) & 1U) != 0;
  }
  void add(NodeSlot slot);
  void drop(NodeSlot slot);
};

// A request, prepared once for all nodes.
struct PlacementFilter {
  struct Constraint {
    const NodeSet* labelled;  // the nodes with this very label; null when there are none
    bool equal;
  };
  Resources resources;
  std::vector<Constraint> constraints;
  std::vector<NodeSlot> excluded;
};

// Why a node cannot take a sandbox. `short_of_*` are answered by look_at only; fits() does not tell them apart.
enum class Misfit { none, unschedulable, labels, excluded, sandboxes, memory, cpu };

class NodeTable {
 public:
  // In which bucket a node lies: by the mean or by the larger share of what is reserved of it.
  enum class BucketKey { mean_share, dominant_share };
  static constexpr std::size_t kBuckets = 128;

  explicit NodeTable(BucketKey key);

  void upsert(const NodeView& node);
  void remove(const NodeId& id);
  void set_load(const NodeId& id, const Resources& reserved, std::uint32_t sandboxes, std::uint32_t pending);

  [[nodiscard]] std::size_t size() const { return by_id_.size(); }
  [[nodiscard]] std::size_t slots() const {
    return hot_.size();
  }  // some of them may be vacant; a vacant one never fits
  [[nodiscard]] const NodeView& view(NodeSlot slot) const { return views_[slot]; }
  [[nodiscard]] bool is_vacant(NodeSlot slot) const { return views_[slot].id.empty(); }
  [[nodiscard]] Resources capacity(NodeSlot slot) const { return hot_[slot].capacity; }
  [[nodiscard]] Resources reserved(NodeSlot slot) const { return hot_[slot].capacity - hot_[slot].free; }
  [[nodiscard]] std::uint32_t pending(NodeSlot slot) const { return hot_[slot].pending; }
  // From the emptiest (0) to the fullest.
  [[nodiscard]] const std::vector<NodeSlot>& bucket(std::size_t i) const { return buckets_[i]; }
  // Null when no node has it.
  [[nodiscard]] const NodeSet* nodes_with_image(const std::string& image) const;
  // All slots in the order of the names of their nodes.
  [[nodiscard]] const std::vector<NodeSlot>& in_name_order() const;

  Result<PlacementFilter> prepare(const PlacementRequest& request) const;
  [[nodiscard]] bool fits(NodeSlot slot, const PlacementFilter& filter) const {
    const Hot& hot = hot_[slot];
    if (!hot.open || !filter.resources.fits_in(hot.free)) return false;
    return filter.constraints.empty() && filter.excluded.empty() ? true : is_allowed(slot, filter) == Misfit::none;
  }
  [[nodiscard]] Misfit look_at(NodeSlot slot, const PlacementFilter& filter) const;

 private:
  struct Hot {
    Resources free;
    Resources capacity;
    std::uint32_t pending = 0;
    bool open = false;  // exists, schedulable, and below its number of sandboxes
  };
  [[nodiscard]] Misfit is_allowed(NodeSlot slot, const PlacementFilter& filter) const;
  NodeSlot take_slot();
  void refresh(NodeSlot slot);
  void leave_bucket(NodeSlot slot);
  void enlist(NodeSlot slot, const NodeView& node);
  void strike_out(NodeSlot slot);

  BucketKey key_;
  std::vector<Hot> hot_;
  std::vector<NodeView> views_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> where_;  // slot -> bucket and place in it
  std::vector<NodeSlot> vacant_;
  std::unordered_map<NodeId, NodeSlot> by_id_;
  std::vector<std::vector<NodeSlot>> buckets_;
  std::unordered_map<std::string, NodeSet> images_;
  std::unordered_map<std::string, NodeSet> labels_;  // by "key=value"
  mutable std::vector<NodeSlot> order_;
  mutable bool order_is_stale_ = false;
};

// The error for a request that no node can take: what is missing most, and how far away the nearest node is.
Error explain_exhaustion(const NodeTable& table, const PlacementRequest& request, const PlacementFilter& filter);

}  // namespace dirigent::policy
