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
#include <set>
#include <string>
#include <unordered_map>
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
  std::set<SandboxId> sandboxes;     // all that hold a reservation
  std::uint32_t pending = 0;         // of these: placed or starting
  bool cordoned = false;
  bool leaving = false;
  Histogram start_times;             // placed to ready, nanoseconds

  [[nodiscard]] bool schedulable() const { return session.has_value() && !cordoned && !leaving; }
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
  // Which data plane may use it, when its limit cannot be shared by all of them. nullopt: all of them.
  std::optional<SessionId> owner;
  std::optional<SessionId> next_owner; // being moved: `owner` has to drain it first
  std::set<SessionId> awaiting_drain;  // data planes that still may have requests in it
  std::optional<Instant> deadline;     // draining: stop it then whatever they say; stopping: order it again then
};

class Fleet {
 public:
  explicit Fleet(policy::PlacementKind placement);

  // --- nodes
  Node& join(const NodeInfo& info, SessionId session, Instant now);  // new, or the same node with a new session
  void lose(Node& node, Instant now);                                // its session ended
  void forget(const NodeId& id);                                     // REQUIRES: no sandbox on it
  void set_cordoned(Node& node, bool cordoned);
  void set_leaving(Node& node);
  Node* find_node(const NodeId& id);
  Node* node_of(SessionId session);
  [[nodiscard]] const std::map<NodeId, Node>& nodes() const { return nodes_; }
  // A node as placement sees it.
  static policy::NodeView view_of(const Node& node);

  // --- sandboxes
  // Chooses a node, reserves the resources there and makes the record in state `placed`.
  Result<policy::PlacementDecision> place(Sandbox sandbox, const RevisionSpec& spec, std::vector<NodeId> excluded, Rng& rng);
  // Takes in a sandbox that a worker runs and we did not know.
  Sandbox& adopt(const SandboxStatus& status, Node& node, const Resources& resources, Instant now);
  // By the table of model/sandbox.h (asserted). `gone` frees the reservation and destroys the record.
  void move(Sandbox& sandbox, SandboxState to, Instant now);
  Sandbox* find(SandboxId id);
  [[nodiscard]] const std::unordered_map<SandboxId, Sandbox>& sandboxes() const { return sandboxes_; }
  // Of one function, any state; ids in order of creation.
  [[nodiscard]] const std::set<SandboxId>& of(const FunctionName& function) const;

 private:
  void reserve(Node& node, const Sandbox& sandbox);
  void refresh(const Node& node);
  void index(const Node& node);

  std::unique_ptr<policy::NodeIndex> index_;
  std::map<NodeId, Node> nodes_;
  std::unordered_map<SessionId, NodeId> by_session_;
  std::unordered_map<SandboxId, Sandbox> sandboxes_;
  std::unordered_map<FunctionName, std::set<SandboxId>> by_function_;
};

}  // namespace dirigent::core
