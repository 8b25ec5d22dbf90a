// SPDX-License-Identifier: MIT
//
// The conductor: what the control role decides. It compares, per function, the wanted set of sandboxes with the observed
// one and orders the difference (level-triggered: nothing is counted that could drift).
//
//   demand, looks --> autoscaler --> wanted
//   wanted > observed --> placement reserves --> StartSandbox --> ready --> routed to the data planes
//   wanted < observed --> unrouted --> drained (or drain time over) --> StopSandbox --> gone
//
// Plain synchronous code: every input is a method with `now`, every output an effect; one owner, one thread. What is
// durable lives in the catalog; its commands leave as proposals and come back through commit().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dirigent/base/boxed.h"
#include "dirigent/base/random.h"
#include "dirigent/core/catalog.h"
#include "dirigent/core/fleet.h"
#include "dirigent/core/function_events.h"
#include "dirigent/model/messages.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/placement.h"

namespace dirigent::core {

struct ConductorOptions {
  Term term;
  std::uint64_t seed = 1;
  policy::AutoscalerKind autoscaler = policy::AutoscalerKind::knative;
  policy::PlacementKind placement = policy::PlacementKind::kubernetes;
  // How long a conductor that starts with functions waits for workers to report their sandboxes before it trusts what it
  // sees: longer than a worker's reconnect back-off.
  Duration recovery_time = 2500ms;
  Duration node_loss_grace = 200ms;         // a node that is back by then has lost nothing
  // How long a data plane whose connection is lost keeps its shares of sandboxes' limits: it may be cut off and not dead.
  Duration data_plane_loss_grace = 2500ms;
  Duration start_backoff_min = 50ms;        // after a failed start, doubling ...
  Duration start_backoff_max = 10s;         // ... to this
  std::uint32_t failures_until_refusal = 5; // failed starts in a row after which waiting requests are refused
  Duration no_capacity_patience = 5s;       // waiting for room before requests are refused
  Duration stop_patience = 45s;             // a worker that has not confirmed a stop by then is asked again
};

// What the conductor knows of a function besides its catalog entry; for views, explanations and tests.
struct FunctionControl {
  const FunctionName* name = nullptr;  // the conductor's
  std::uint64_t number = 0;            // in order of appearance: what happens at one instant happens in this order
  std::unique_ptr<policy::Autoscaler> autoscaler;
  RevisionNumber scaled_revision;      // whose settings the autoscaler has
  std::uint32_t wanted = 0;
  std::optional<Instant> next_look;    // of the autoscaler
  std::optional<Instant> next_sample;
  std::optional<Instant> retry_at;     // no start before this
  std::optional<Instant> wakeup;       // its place among the wake-ups
  std::optional<Instant> demand_since; // the oldest unanswered demand, for StartPhases::schedule

  struct Source {                      // one shard of one data plane, and what it said last
    SessionId session;
    std::uint32_t shard = 0;
    std::uint32_t waiting = 0;
    std::uint32_t in_flight = 0;
    Instant at;
  };
  std::vector<Source> sources;         // by session and shard
  std::uint64_t arrivals = 0;          // since the last sample
  std::uint64_t completions = 0;
  double request_seconds = 0;          // waiting and in flight, added up
  Duration busy{};
  Instant sampled_at{};
  double requests_per_second = 0;      // smoothed completions

  RouteVersion version;                // of the last route sent
  Reason unavailable = Reason::none;
  std::string unavailable_detail;

  std::uint32_t failures_in_row = 0;
  std::vector<NodeId> excluded;        // nodes where a start just failed
  std::optional<Instant> no_room_since;
  Boxed<SandboxEnd> last_failure;
  std::optional<RevisionNumber> verifying;
  bool is_queued = false;              // in the queue of starts
  bool wanted_once = false;            // a decision or an order has set `wanted`
  std::optional<Instant> next_spare;   // no spare is started before this

  std::optional<policy::ScalingDecision> last_scaling;
  Boxed<policy::PlacementDecision> last_placement;
  FunctionEvents events;
  // What the image's reference of each revision stood for at its first start: every node uses the same from then on.
  std::vector<std::pair<RevisionNumber, std::string>> image_digests;

  [[nodiscard]] std::uint32_t waiting() const;
  [[nodiscard]] std::uint32_t in_flight() const;
  Source& source_of(SessionId session, std::uint32_t shard);  // a new one when it has not said anything yet
  [[nodiscard]] const std::string* digest_of(RevisionNumber revision) const;  // nullptr: not known yet
};

struct ConductorEffects {
  std::vector<std::pair<SessionId, WorkerOrder>> worker_orders;
  std::vector<std::pair<SessionId, DataPlaneOrder>> data_plane_orders;
  std::vector<CatalogCommand> proposals;   // claimed in the catalog: make durable, then commit() or abort()
  std::vector<std::pair<SessionId, std::string>> disconnects;
  std::set<FunctionName> changed;          // something visible happened to these
};

class Conductor {
 public:
  explicit Conductor(ConductorOptions options);
  ~Conductor();

  // --- the catalog
  // Functions read back at start, before anything else.
  void restore(std::vector<Function> functions, Instant now);
  void restore(const std::vector<SetNodeUse>& nodes);
  [[nodiscard]] const Catalog& catalog() const { return catalog_; }
  [[nodiscard]] Catalog& mutable_catalog() { return catalog_; }
  // The command is durable.
  void commit(const CatalogCommand& command, Instant now, ConductorEffects& effects);
  // It could not be made durable; nothing has changed. A proposal of our own is made again after a while.
  void abort(const CatalogCommand& command, Instant now, ConductorEffects& effects);

  // --- workers
  Status worker_joined(SessionId session, const WorkerHello& hello, Instant now, ConductorEffects& effects);
  void worker_said(SessionId session, const WorkerMessage& message, Instant now, ConductorEffects& effects);
  void worker_lost(SessionId session, Instant now, ConductorEffects& effects);
  // The command is durable. The node need not have joined.
  void commit(const SetNodeUse& command, Instant now, ConductorEffects& effects);
  // Orders nodes to get an image: one, or all that take new sandboxes. Which. not_found: no such node, or none is connected.
  Result<std::vector<NodeId>> prefetch(const std::string& image, const std::optional<NodeId>& node, ConductorEffects& effects);

  // --- data planes
  Status data_plane_joined(SessionId session, const DataPlaneHello& hello, Instant now, ConductorEffects& effects);
  void data_plane_said(SessionId session, const DataPlaneMessage& message, Instant now, ConductorEffects& effects);
  void data_plane_lost(SessionId session, Instant now, ConductorEffects& effects);

  // --- time
  [[nodiscard]] std::optional<Instant> next_wakeup() const;
  void tick(Instant now, ConductorEffects& effects);

  // --- what it knows
  struct DataPlane {
    DataPlaneHello hello;
    Instant heard_at{};
    bool leaving = false;
    std::uint64_t applied = 0;  // the number of the last update it has confirmed
  };
  [[nodiscard]] const Fleet& fleet() const { return fleet_; }
  [[nodiscard]] const Node* node_of(SessionId session) { return fleet_.node_of(session); }  // nullptr: not a worker's
  [[nodiscard]] const std::map<SessionId, DataPlane>& data_planes() const { return data_planes_; }
  // Its connection is lost, but it still has its shares.
  [[nodiscard]] bool is_missed(const DataPlaneId& id) const;
  // The number of the last route update.
  [[nodiscard]] std::uint64_t last_update() const { return update_number_; }
  // Whether every data plane has applied the update with this number. Only updates about the catalog are confirmed.
  [[nodiscard]] bool is_applied(std::uint64_t update) const;
  [[nodiscard]] const FunctionControl* control(const FunctionName& name) const;
  [[nodiscard]] const ConductorOptions& options() const { return options_; }
  [[nodiscard]] std::uint64_t last_event() const { return event_sequence_; }
  [[nodiscard]] std::uint64_t creations() const { return creations_; }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }
  // All workers and data planes that can be expected are back: what is not known is not there. Takes effect at tick(now).
  void end_recovery(Instant now) {
    if (recovering(now)) recovering_until_ = now;
  }
  [[nodiscard]] bool recovering(Instant now) const { return recovering_until_ && now < *recovering_until_; }

  // Aborts when an invariant of docs/architecture.md does not hold; for tests and the simulator.
  void check_invariants() const;

 private:
  struct Work;  // one input being handled: now, effects, and which routes have to be sent at its end

  FunctionControl& control_of(const FunctionName& name);
  void flush_routes(Work& work);

  // scaling (conductor_scaling.cpp)
  void sample(const Function& function, FunctionControl& control, bool is_urgent, Work& work);
  void look(const Function& function, FunctionControl& control, bool is_urgent, Work& work);
  void reconcile(const FunctionName& name, Work& work);
  enum class Start { ordered, queued, no_room };
  enum class Purpose { wanted, spare, verification };
  Start start_one(const Function& function, FunctionControl& control, const Revision& revision, Purpose purpose, Work& work);
  void start_queued(Work& work);
  void shrink(const Function& function, FunctionControl& control, std::vector<Sandbox*> candidates, std::size_t count, Work& work);
  void schedule(FunctionControl& control);
  void retry_without_room(Work& work);
  [[nodiscard]] std::uint32_t wanted_floor(const Function& function, const FunctionControl& control) const;

  // spares (conductor_spares.cpp)
  void use_spares(FunctionControl& control, std::vector<Sandbox*>& spares, std::vector<Sandbox*>& current, Work& work);
  void keep_spares(const Function& function, FunctionControl& control, const Revision& serving, std::vector<Sandbox*> spares,
                   std::size_t current, Work& work);
  bool give_up_a_spare(const Revision& revision, Work& work);
  [[nodiscard]] bool has_used(const FunctionName& name) const;

  // sandboxes (conductor_sandboxes.cpp)
  void observed(Node& node, const SandboxStatus& status, Work& work);
  void became_ready(Sandbox& sandbox, const SandboxStatus& status, Work& work);
  void ended(Sandbox& sandbox, const SandboxEnd& end, Work& work);
  void drain(Sandbox& sandbox, Work& work, bool is_surplus = false);
  void stop(Sandbox& sandbox, Work& work);
  void set_deadline(Sandbox& sandbox, Instant deadline);
  [[nodiscard]] Duration drain_timeout_of(const Sandbox& sandbox) const;
  void settle_verification(const FunctionName& name, RevisionNumber revision, bool is_ready, const SandboxEnd* end, Work& work);
  void evacuate(Node& node, Work& work);
  void node_gone(const NodeId& id, Work& work);

  // routes (conductor_routes.cpp)
  void route_changed(const FunctionName& name, Work& work);
  FunctionRoute route_for(SessionId session, const FunctionName& name) const;
  void update_availability(const Function& function, FunctionControl& control, Work& work);

  // shares of limits (conductor_shares.cpp)
  bool divide(Sandbox& sandbox, const Function* function, Instant now);
  [[nodiscard]] std::uint32_t target_of(const Sandbox& sandbox, SessionId session, std::uint32_t place) const;
  void assign_owner(Sandbox& sandbox);
  void rebalance_owners(const Function& function, FunctionControl& control, Work& work);
  void slots_released(SessionId session, const SlotsReleased& released, Work& work);
  void take_in(SessionId session, const DataPlaneHello& hello, Work& work);
  void keep_unreleased(Sandbox& sandbox);
  void forget_shares(SessionId session, bool has_left, Work& work);
  void forget_unreleased(SessionId session);
  void stop_drained(Work& work);
  void forget_load(SessionId session);

  void propose(std::optional<CatalogCommand> command, Work& work);
  void note(const FunctionName& name, std::string kind, std::optional<RevisionNumber> revision, std::string text, Work& work,
            std::optional<SandboxEnd> end = std::nullopt);

  ConductorOptions options_;
  Rng rng_;
  Catalog catalog_;
  Fleet fleet_;
  std::unique_ptr<policy::AutoscalerFamily> scalers_;
  std::unordered_map<FunctionName, FunctionControl> controls_;
  std::uint64_t next_control_ = 0;
  std::map<SessionId, DataPlane> data_planes_;
  struct Missed {
    DataPlaneId id;
    Instant until;
  };
  std::map<SessionId, Missed> missed_planes_;  // lost, and when their grace is over
  // What data planes still hold of sandboxes that are not in the fleet: ended ones, and ones no worker has reported yet.
  std::unordered_map<SandboxId, std::vector<SlotGrant>> unreleased_;
  std::uint64_t update_number_ = 0;
  struct Wakeup {
    Instant when;
    FunctionControl* control;
    bool operator<(const Wakeup& other) const { return when != other.when ? when < other.when : control->number < other.control->number; }
  };
  std::set<Wakeup> function_wakeups_;
  // Functions that want another sandbox while every node that could take it starts as many as it may. Served in turn, one
  // sandbox each, as starts end: a burst of one function does not hold up the others.
  std::deque<FunctionControl*> start_queue_;
  bool is_serving_starts_ = false;
  std::set<SandboxId> spares_;  // of all functions, the newest last
  std::set<std::pair<Instant, SandboxId>> sandbox_deadlines_;
  std::set<std::pair<Instant, NodeId>> lost_nodes_;  // and when their grace is over
  std::optional<Instant> recovering_until_;
  std::uint64_t next_sandbox_ = 0;
  std::uint64_t event_sequence_ = 0;
  std::uint64_t creations_ = 0;
  std::uint64_t failures_ = 0;
};

}  // namespace dirigent::core
