// SPDX-License-Identifier: MIT
#include "policy/node_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"
#include "policy/scores.h"

namespace dirigent::policy {

namespace {

constexpr std::uint32_t kNoBucket = std::numeric_limits<std::uint32_t>::max();

using NodeSets = std::unordered_map<std::string, NodeSet>;

const NodeSet* find(const NodeSets& sets, const std::string& name) {
  const auto found = sets.find(name);
  return found == sets.end() ? nullptr : &found->second;
}

void drop(NodeSets& sets, const std::string& name, NodeSlot slot) {
  const auto found = sets.find(name);
  if (found == sets.end()) return;
  found->second.drop(slot);
  if (found->second.nodes.empty()) sets.erase(found);
}

std::string label_text(const std::pair<const std::string, std::string>& label) {
  return label.first + "=" + label.second;
}

}  // namespace

void NodeSet::add(NodeSlot slot) {
  if (has(slot)) return;
  if (bits.size() <= slot / 64) bits.resize(slot / 64 + 1);
  bits[slot / 64] |= std::uint64_t{1} << (slot % 64);
  nodes.push_back(slot);
}

void NodeSet::drop(NodeSlot slot) {
  if (!has(slot)) return;
  bits[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
  std::erase(nodes, slot);
}

NodeTable::NodeTable(BucketKey key) : key_(key), buckets_(kBuckets) {}

NodeSlot NodeTable::take_slot() {
  if (!vacant_.empty()) {
    const NodeSlot slot = vacant_.back();
    vacant_.pop_back();
    return slot;
  }
  hot_.emplace_back();
  views_.emplace_back();
  where_.emplace_back(kNoBucket, 0);
  return static_cast<NodeSlot>(hot_.size() - 1);
}

void NodeTable::leave_bucket(NodeSlot slot) {
  const auto [bucket, place] = where_[slot];
  if (bucket == kNoBucket) return;
  auto& members = buckets_[bucket];
  members[place] = members.back();
  where_[members[place]].second = place;
  members.pop_back();
  where_[slot].first = kNoBucket;
}

// Brings what is derived from the view of a node in line with it.
void NodeTable::refresh(NodeSlot slot) {
  const NodeView& view = views_[slot];
  const bool below_limit = view.sandboxes_max == 0 || view.sandboxes < view.sandboxes_max;
  const bool may_start = view.starts_max == 0 || view.pending < view.starts_max;
  hot_[slot] = {view.capacity - view.reserved, view.capacity, view.pending, view.schedulable && below_limit && may_start};
  const double share = key_ == BucketKey::mean_share ? mean_share(view.capacity, view.reserved)
                                                     : dominant_share(view.capacity, view.reserved);
  const auto bucket = static_cast<std::uint32_t>(share * (kBuckets - 1));
  if (where_[slot].first == bucket) return;
  leave_bucket(slot);
  where_[slot] = {bucket, static_cast<std::uint32_t>(buckets_[bucket].size())};
  buckets_[bucket].push_back(slot);
}

void NodeTable::enlist(NodeSlot slot, const NodeView& node) {
  for (const auto& image : node.images) images_[image].add(slot);
  for (const auto& label : node.labels) labels_[label_text(label)].add(slot);
}

void NodeTable::strike_out(NodeSlot slot) {
  for (const auto& image : views_[slot].images) drop(images_, image, slot);
  for (const auto& label : views_[slot].labels) drop(labels_, label_text(label), slot);
}

void NodeTable::upsert(const NodeView& node) {
  ASSERT(!node.id.empty());
  const auto [entry, is_new] = by_id_.try_emplace(node.id, 0);
  if (is_new) {
    entry->second = take_slot();
    order_is_stale_ = true;
  }
  const NodeSlot slot = entry->second;
  if (is_new || views_[slot].images != node.images || views_[slot].labels != node.labels) {
    strike_out(slot);
    enlist(slot, node);
  }
  views_[slot] = node;
  refresh(slot);
}

void NodeTable::remove(const NodeId& id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  const NodeSlot slot = found->second;
  by_id_.erase(found);
  strike_out(slot);
  leave_bucket(slot);
  hot_[slot] = {};
  views_[slot] = {};
  vacant_.push_back(slot);
  order_is_stale_ = true;
}

void NodeTable::set_load(const NodeId& id, const Resources& reserved, std::uint32_t sandboxes, std::uint32_t pending) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  NodeView& view = views_[found->second];
  view.reserved = reserved;
  view.sandboxes = sandboxes;
  view.pending = pending;
  refresh(found->second);
}

const NodeSet* NodeTable::nodes_with_image(const std::string& image) const { return find(images_, image); }

const std::vector<NodeSlot>& NodeTable::in_name_order() const {
  if (order_is_stale_) {
    order_.clear();
    for (const auto& [id, slot] : by_id_) order_.push_back(slot);
    std::sort(order_.begin(), order_.end(), [&](NodeSlot a, NodeSlot b) { return views_[a].id < views_[b].id; });
    order_is_stale_ = false;
  }
  return order_;
}

Result<PlacementFilter> NodeTable::prepare(const PlacementRequest& request) const {
  PlacementFilter filter{request.resources, {}, {}};
  for (const std::string& text : request.constraints) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || text.substr(0, equals) == "!") {
      return failure(ErrorCode::invalid_argument, "constraint \"{}\" is neither KEY=VALUE nor KEY!=VALUE", text);
    }
    const bool differs = text[equals - 1] == '!';
    std::string label = text;
    if (differs) label.erase(equals - 1, 1);
    filter.constraints.push_back({find(labels_, label), !differs});
  }
  for (const NodeId& id : request.excluded) {
    const auto found = by_id_.find(id);
    if (found != by_id_.end()) filter.excluded.push_back(found->second);
  }
  return filter;
}

Misfit NodeTable::is_allowed(NodeSlot slot, const PlacementFilter& filter) const {
  // A label that a node does not have differs from every value.
  for (const auto& constraint : filter.constraints) {
    const bool equal = constraint.labelled != nullptr && constraint.labelled->has(slot);
    if (equal != constraint.equal) return Misfit::labels;
  }
  const bool excluded = std::find(filter.excluded.begin(), filter.excluded.end(), slot) != filter.excluded.end();
  return excluded ? Misfit::excluded : Misfit::none;
}

Misfit NodeTable::look_at(NodeSlot slot, const PlacementFilter& filter) const {
  const NodeView& view = views_[slot];
  if (!view.schedulable) return Misfit::unschedulable;
  if (const Misfit misfit = is_allowed(slot, filter); misfit != Misfit::none) return misfit;
  if (view.sandboxes_max != 0 && view.sandboxes >= view.sandboxes_max) return Misfit::sandboxes;
  const Resources free = view.capacity - view.reserved;
  if (filter.resources.memory > free.memory) return Misfit::memory;
  if (filter.resources.cpu > free.cpu) return Misfit::cpu;
  return Misfit::none;
}

namespace {

struct Shortage {
  std::array<std::uint32_t, 7> nodes{};  // by Misfit: of a node that lacks both memory and CPU, both are counted
  Resources most_free{Millicpu{std::numeric_limits<std::int64_t>::min()},
                      Bytes{std::numeric_limits<std::int64_t>::min()}};
  std::uint32_t eligible = 0;  // nodes that lack nothing but resources

  std::uint32_t& of(Misfit misfit) { return nodes[static_cast<std::size_t>(misfit)]; }
};

Shortage count_shortage(const NodeTable& table, const PlacementFilter& filter) {
  Shortage shortage;
  for (NodeSlot slot = 0; slot < table.slots(); ++slot) {
    if (table.is_vacant(slot)) continue;
    const Misfit misfit = table.look_at(slot, filter);
    if (misfit != Misfit::memory && misfit != Misfit::cpu) {
      ++shortage.of(misfit);
      continue;
    }
    const NodeView& view = table.view(slot);
    const Resources free = view.capacity - view.reserved;
    ++shortage.eligible;
    shortage.of(Misfit::memory) += static_cast<std::uint32_t>(filter.resources.memory > free.memory);
    shortage.of(Misfit::cpu) += static_cast<std::uint32_t>(filter.resources.cpu > free.cpu);
    shortage.most_free.memory = std::max(shortage.most_free.memory, free.memory);
    shortage.most_free.cpu = std::max(shortage.most_free.cpu, free.cpu);
  }
  return shortage;
}

std::string nodes(std::uint32_t count) { return count == 1 ? "1 node" : fmt::format("{} nodes", count); }

std::string lack_of(std::string_view what, const std::string& asked, const std::string& most, bool none_has_it,
                    std::uint32_t lacking, std::uint32_t eligible) {
  if (none_has_it && eligible == 1) return fmt::format("{}: {} asked, {} free on the only node", what, asked, most);
  if (none_has_it) return fmt::format("{}: {} asked, at most {} free on any of {} nodes", what, asked, most, eligible);
  return fmt::format("{}: {} asked, not free on {} of {} nodes", what, asked, lacking, eligible);
}

}  // namespace

Error explain_exhaustion(const NodeTable& table, const PlacementRequest& request, const PlacementFilter& filter) {
  Shortage shortage = count_shortage(table, filter);
  Misfit worst = Misfit::memory;
  for (const Misfit misfit :
       {Misfit::cpu, Misfit::sandboxes, Misfit::labels, Misfit::excluded, Misfit::unschedulable}) {
    if (shortage.of(misfit) > shortage.of(worst)) worst = misfit;
  }
  const std::uint32_t count = shortage.of(worst);
  std::string reason;
  switch (worst) {
    case Misfit::memory:
      reason = lack_of("memory", format_bytes(request.resources.memory),
                       format_bytes(std::max(shortage.most_free.memory, Bytes{0})),
                       shortage.most_free.memory < request.resources.memory, count, shortage.eligible) +
               "; add a node or ask for less memory";
      break;
    case Misfit::cpu:
      reason = lack_of("cpu", fmt::format("{}m", request.resources.cpu.value),
                       fmt::format("{}m", std::max<std::int64_t>(shortage.most_free.cpu.value, 0)),
                       shortage.most_free.cpu < request.resources.cpu, count, shortage.eligible) +
               "; add a node or ask for less cpu";
      break;
    case Misfit::sandboxes:
      reason = fmt::format("sandboxes: {} at the limit of sandboxes; add a node or raise the limit", nodes(count));
      break;
    case Misfit::labels: {
      std::string wanted;
      for (const auto& constraint : request.constraints) wanted += (wanted.empty() ? "" : ", ") + constraint;
      reason = fmt::format("labels: {} do not satisfy {}; label a node or change the constraint", nodes(count), wanted);
      break;
    }
    case Misfit::excluded:
      reason = fmt::format("refused: {} just failed to start this sandbox; it is tried again later", nodes(count));
      break;
    case Misfit::none:
    case Misfit::unschedulable:
      reason = fmt::format("unschedulable: {} cordoned, draining or silent; uncordon or add a node", nodes(count));
      break;
  }
  return {ErrorCode::exhausted, fmt::format("no node has room for a sandbox: {}", reason)};
}

}  // namespace dirigent::policy
