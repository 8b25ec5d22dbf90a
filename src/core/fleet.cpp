// SPDX-License-Identifier: MIT
#include "dirigent/core/fleet.h"

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"

namespace dirigent::core {

namespace {
bool is_pending(SandboxState state) { return state == SandboxState::placed || state == SandboxState::starting; }

// Most ids are newer than all others; only sandboxes that are taken in may be older.
void insert_sorted(std::vector<SandboxId>& ids, SandboxId id) { ids.insert(std::upper_bound(ids.begin(), ids.end(), id), id); }
void erase_sorted(std::vector<SandboxId>& ids, SandboxId id) {
  const auto place = std::lower_bound(ids.begin(), ids.end(), id);
  ASSERT(place != ids.end() && *place == id, "sandbox {}", to_string(id));
  ids.erase(place);
}
}  // namespace

std::uint64_t Sandbox::held() const {
  std::uint64_t sum = 0;
  for (const SlotGrant& grant : grants) sum += grant.held;
  return sum;
}

SlotGrant* Sandbox::grant_of(SessionId session) {
  const auto found = std::find_if(grants.begin(), grants.end(), [&](const SlotGrant& grant) { return grant.session == session; });
  return found == grants.end() ? nullptr : &*found;
}

Fleet::Fleet(policy::PlacementKind placement) : index_(policy::make_node_index(placement)) {}

// --- nodes --------------------------------------------------------------------------------------------------------

Node& Fleet::join(const NodeInfo& info, SessionId session, Instant now) {
  auto [place, is_new] = nodes_.try_emplace(info.id);
  Node& node = place->second;
  if (node.session) by_session_.erase(*node.session);
  if (is_new) node.joined_at = now;
  node.info = info;
  node.session = session;
  node.heard_at = now;
  node.leaving = false;
  by_session_[session] = info.id;
  index(node);
  return node;
}

void Fleet::lose(Node& node, Instant now) {
  if (node.session) by_session_.erase(*node.session);
  node.session.reset();
  node.lost_at = now;
  index(node);
}

void Fleet::forget(const NodeId& id) {
  const auto found = nodes_.find(id);
  if (found == nodes_.end()) return;
  ASSERT(found->second.sandboxes.empty(), "node {} has {} sandboxes", id, found->second.sandboxes.size());
  if (found->second.session) by_session_.erase(*found->second.session);
  index_->remove(id);
  free_nodes_.erase(&found->second);
  busy_nodes_.erase(&found->second);
  nodes_.erase(found);
}

void Fleet::set_use(Node& node, NodeUse use) {
  node.use = use;
  index(node);
}

void Fleet::set_images(Node& node, NodeImages images) {
  node.images = std::move(images);
  std::sort(node.images.images.begin(), node.images.images.end());
  index(node);
}

void Fleet::set_leaving(Node& node) {
  node.leaving = true;
  index(node);
}

Node* Fleet::find_node(const NodeId& id) {
  const auto found = nodes_.find(id);
  return found == nodes_.end() ? nullptr : &found->second;
}

Node* Fleet::node_of(SessionId session) {
  const auto found = by_session_.find(session);
  return found == by_session_.end() ? nullptr : find_node(found->second);
}

policy::NodeView Fleet::view_of(const Node& node) {
  policy::NodeView view;
  view.id = node.info.id;
  view.capacity = node.info.capacity;
  view.reserved = node.reserved;
  view.sandboxes = static_cast<std::uint32_t>(node.sandboxes.size());
  view.sandboxes_max = node.info.sandboxes_max;
  view.schedulable = node.schedulable();
  view.pending = node.pending;
  view.starts_max = node.info.starts_max;
  view.labels = node.info.labels;
  view.images = node.images.images;
  return view;
}

void Fleet::index(const Node& node) {
  index_->upsert(view_of(node));
  classify(node);
}

void Fleet::classify(const Node& node) {
  auto& in = node.is_busy() ? busy_nodes_ : free_nodes_;
  auto& out = node.is_busy() ? free_nodes_ : busy_nodes_;
  out.erase(&node);
  if (node.schedulable()) {
    in.insert(&node);
  } else {
    in.erase(&node);
  }
}

void Fleet::refresh(const Node& node) {
  index_->set_load(node.info.id, node.reserved, static_cast<std::uint32_t>(node.sandboxes.size()), node.pending);
  if (node.info.starts_max != 0) classify(node);
}

// --- sandboxes ----------------------------------------------------------------------------------------------------

void Fleet::reserve(Node& node, const Sandbox& sandbox) {
  node.reserved += sandbox.reserved;
  insert_sorted(node.sandboxes, sandbox.id);
  if (is_pending(sandbox.state)) ++node.pending;
  refresh(node);
}

Result<policy::PlacementDecision> Fleet::place(Sandbox sandbox, const RevisionSpec& spec, std::vector<NodeId> excluded, Rng& rng) {
  const policy::PlacementRequest request{spec.resources, spec.image, spec.constraints, excluded};
  auto decision = index_->choose(request, rng);
  if (!decision) return decision;
  Node* node = find_node(decision->node);
  ASSERT(node != nullptr && node->schedulable(), "placement chose node {}", decision->node);
  sandbox.node = decision->node;
  sandbox.state = SandboxState::placed;
  sandbox.reserved = spec.resources;
  sandbox.concurrency_limit = spec.concurrency_limit;
  reserve(*node, sandbox);
  ASSERT(node->reserved.fits_in(node->info.capacity), "node {} is over-reserved", node->info.id);
  insert_sorted(by_function_[sandbox.function], sandbox.id);
  const SandboxId id = sandbox.id;
  const bool is_new = sandboxes_.emplace(id, std::move(sandbox)).second;
  ASSERT(is_new, "sandbox {}", to_string(id));
  return decision;
}

Sandbox& Fleet::adopt(const SandboxStatus& status, Node& node, const RevisionSpec& spec, Instant now) {
  Sandbox sandbox;
  sandbox.id = status.id;
  sandbox.function = status.function;
  sandbox.revision = status.revision;
  sandbox.node = node.info.id;
  sandbox.state = status.state;
  sandbox.reserved = spec.resources;
  sandbox.concurrency_limit = spec.concurrency_limit;
  sandbox.is_adopted = true;
  sandbox.address = status.address;
  sandbox.phases = status.phases;
  sandbox.placed_at = now - status.age;
  sandbox.ready_at = sandbox.placed_at;
  sandbox.last_busy_at = now;
  reserve(node, sandbox);
  insert_sorted(by_function_[sandbox.function], sandbox.id);
  const auto [place, is_new] = sandboxes_.emplace(status.id, std::move(sandbox));
  ASSERT(is_new, "sandbox {}", to_string(status.id));
  return place->second;
}

void Fleet::move(Sandbox& sandbox, SandboxState to, Instant now) {
  ASSERT(may_move(sandbox.state, to), "sandbox {} from {} to {}", to_string(sandbox.id), to_string(sandbox.state), to_string(to));
  Node* node = find_node(sandbox.node);
  ASSERT(node != nullptr, "node {}", sandbox.node);
  if (is_pending(sandbox.state) && !is_pending(to)) {
    ASSERT(node->pending > 0);
    --node->pending;
  }
  sandbox.state = to;
  if (to == SandboxState::ready) {
    sandbox.ready_at = now;
    sandbox.last_busy_at = now;
    node->start_times.record(now - sandbox.placed_at);
  }
  if (to == SandboxState::gone) {
    node->reserved -= sandbox.reserved;
    erase_sorted(node->sandboxes, sandbox.id);
    const auto peers = by_function_.find(sandbox.function);
    erase_sorted(peers->second, sandbox.id);
    if (peers->second.empty()) by_function_.erase(peers);
    const SandboxId id = sandbox.id;
    sandboxes_.erase(id);  // `sandbox` is gone from here on
  }
  refresh(*node);
}

Sandbox* Fleet::find(SandboxId id) {
  const auto found = sandboxes_.find(id);
  return found == sandboxes_.end() ? nullptr : &found->second;
}

const std::vector<SandboxId>& Fleet::of(const FunctionName& function) const {
  static const std::vector<SandboxId> none;
  const auto found = by_function_.find(function);
  return found == by_function_.end() ? none : found->second;
}

}  // namespace dirigent::core
