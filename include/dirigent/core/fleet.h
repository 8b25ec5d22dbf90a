// SPDX-License-Identifier: MIT
//
// The fleet: the soft cluster state. Nodes with what is reserved on them, and sandboxes in exactly one state each.
// Never on disk: rebuilt from what workers report. The fleet keeps the placement index current, so that a reservation
// made now counts in the very next decision.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/base/random.h"
#include "dirigent/base/time.h"
#include "dirigent/model/messages.h"
#include "dirigent/policy/placement.h"

namespace dirigent::core {

struct Node {
  NodeInfo info;
  std::optional<SessionId> session;  // none: its connection is lost
  Instant joined_at{};
  Instant heard_at{};
  Instant lost_at{};                 // when the session was lost
  NodeUsage usage;
  Resources reserved;
  std::vector<SandboxId> sandboxes;  // all that hold a reservation, by id
  std::uint32_t pending = 0;         // of these: placed or starting
  NodeUse use = NodeUse::open;
  bool leaving = false;
  Histogram start_times;             // placed to ready, nanoseconds
  NodeImages images;                 // as last told

  [[nodiscard]] bool schedulable() const { return session.has_value() && use == NodeUse::open && !leaving; }
  // As many sandboxes as may start here at a time are starting.
  [[nodiscard]] bool is_busy() const { return info.starts_max != 0 && pending >= info.starts_max; }
};

// What one data plane has of a sandbox's concurrency limit. kUnlimitedSlots where there is none.
struct SlotGrant {
  SessionId session;             // of the data plane
  std::uint32_t granted = 0;     // by the last route
  std::uint32_t held = 0;        // what it may use until it has said that it released it; never less than `granted`
  std::uint64_t lowered_by = 0;  // the number of the update that lowered `granted` last
};

struct Sandbox {
  SandboxId id;
  FunctionName function;
  RevisionNumber revision;
  NodeId node;
  SandboxState state = SandboxState::placed;
  Resources reserved;
  SandboxAddress address;
  StartPhases phases;
  Instant placed_at{};
  Instant ready_at{};
  Instant last_busy_at{};
  bool is_verification = false;        // the one instance that proves a candidate
  bool is_adopted = false;             // a worker ran it before we knew it
  bool is_spare = false;               // beside the wanted ones, and in no route until it becomes one of them
  std::uint32_t concurrency_limit = 0; // of its revision; 0 = none
  std::vector<SlotGrant> grants;       // by data plane; those that hold nothing are left out
  // Data planes that nobody counted any more have come back with requests in it: more is held than the limit allows.
  bool is_overcommitted = false;
  // Which data plane shall have the whole limit, when there is less of it than data planes.
  std::optional<SessionId> owner;

  [[nodiscard]] std::uint64_t held() const;  // by all data planes
  [[nodiscard]] bool is_held() const { return held() > 0; }
  [[nodiscard]] SlotGrant* grant_of(SessionId session);  // nullptr: it has and holds nothing
  std::optional<Instant> deadline;     // draining: stop it then whatever they say; stopping: order it again then
};

class Fleet {
 public:
  explicit Fleet(policy::PlacementKind placement);

  // --- nodes
  Node& join(const NodeInfo& info, SessionId session, Instant now);  // new, or the same node with a new session
  void lose(Node& node, Instant now);                                // its session ended
  void forget(const NodeId& id);                                     // REQUIRES: no sandbox on it
  void set_use(Node& node, NodeUse use);
  void set_leaving(Node& node);
  void set_images(Node& node, NodeImages images);
  Node* find_node(const NodeId& id);
  Node* node_of(SessionId session);
  [[nodiscard]] const std::map<NodeId, Node>& nodes() const { return nodes_; }
  // Schedulable nodes that may, and that may not, start another sandbox now.
  [[nodiscard]] std::size_t free_nodes() const { return free_nodes_.size(); }
  [[nodiscard]] std::size_t busy_nodes() const { return busy_nodes_.size(); }
  // A node as placement sees it.
  static policy::NodeView view_of(const Node& node);

  // --- sandboxes
  // Chooses a node, reserves the resources there and makes the record in state `placed`.
  Result<policy::PlacementDecision> place(Sandbox sandbox, const RevisionSpec& spec, std::vector<NodeId> excluded, Rng& rng);
  // Takes in a sandbox that a worker runs and we did not know.
  Sandbox& adopt(const SandboxStatus& status, Node& node, const RevisionSpec& spec, Instant now);
  // By the table of model/sandbox.h (asserted). `gone` frees the reservation and destroys the record.
  void move(Sandbox& sandbox, SandboxState to, Instant now);
  Sandbox* find(SandboxId id);
  [[nodiscard]] const std::unordered_map<SandboxId, Sandbox>& sandboxes() const { return sandboxes_; }
  // Of one function, any state; ids in order of creation.
  [[nodiscard]] const std::vector<SandboxId>& of(const FunctionName& function) const;

 private:
  void reserve(Node& node, const Sandbox& sandbox);
  void refresh(const Node& node);
  void index(const Node& node);
  void classify(const Node& node);

  std::unique_ptr<policy::NodeIndex> index_;
  std::map<NodeId, Node> nodes_;
  std::unordered_set<const Node*> free_nodes_;
  std::unordered_set<const Node*> busy_nodes_;
  std::unordered_map<SessionId, NodeId> by_session_;
  std::unordered_map<SandboxId, Sandbox> sandboxes_;
  std::unordered_map<FunctionName, std::vector<SandboxId>> by_function_;  // each by id
};

}  // namespace dirigent::core
