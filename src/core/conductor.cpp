// SPDX-License-Identifier: MIT
#include "dirigent/core/conductor.h"

#include <algorithm>

#include "conductor_work.h"
#include "dirigent/base/assert.h"

namespace dirigent::core {

namespace {
constexpr Duration kReportSilenceMax = 5s;  // a data plane reports every second while there is load
}  // namespace

std::uint32_t FunctionControl::waiting() const {
  std::uint32_t sum = 0;
  for (const Source& source : sources) sum += source.waiting;
  return sum;
}

std::uint32_t FunctionControl::in_flight() const {
  std::uint32_t sum = 0;
  for (const Source& source : sources) sum += source.in_flight;
  return sum;
}

FunctionControl::Source& FunctionControl::source_of(SessionId session, std::uint32_t shard) {
  const auto place = std::find_if(sources.begin(), sources.end(), [&](const Source& source) {
    return source.session != session ? source.session > session : source.shard >= shard;
  });
  if (place != sources.end() && place->session == session && place->shard == shard) return *place;
  return *sources.insert(place, Source{session, shard, 0, 0, {}});
}

const std::string* FunctionControl::digest_of(RevisionNumber revision) const {
  const auto found = std::find_if(image_digests.begin(), image_digests.end(), [&](const auto& known) { return known.first == revision; });
  return found == image_digests.end() ? nullptr : &found->second;
}

Conductor::Conductor(ConductorOptions options)
    : options_(options), rng_(options.seed), fleet_(options.placement), scalers_(policy::make_autoscaler_family(options.autoscaler)) {}

Conductor::~Conductor() = default;

FunctionControl& Conductor::control_of(const FunctionName& name) {
  const auto [place, is_new] = controls_.try_emplace(name);
  if (is_new) {
    place->second.name = &place->first;
    place->second.number = ++next_control_;
  }
  return place->second;
}

const FunctionControl* Conductor::control(const FunctionName& name) const {
  const auto found = controls_.find(name);
  return found == controls_.end() ? nullptr : &found->second;
}

void Conductor::note(const FunctionName& name, std::string kind, std::optional<RevisionNumber> revision, std::string text,
                     Work& work, std::optional<SandboxEnd> end) {
  control_of(name).events.add({++event_sequence_, {}, work.now, std::move(kind), revision, std::move(text), std::move(end)});
  work.effects.changed.insert(name);
}

// --- the catalog --------------------------------------------------------------------------------------------------

void Conductor::restore(std::vector<Function> functions, Instant now) {
  for (auto& function : functions) {
    const FunctionName name = function.name;
    catalog_.apply(PutFunction{std::move(function), false});
    control_of(name);
  }
  if (!catalog_.functions().empty()) recovering_until_ = now + options_.recovery_time;
}

void Conductor::restore(const std::vector<SetNodeUse>& nodes) {
  for (const auto& node : nodes) catalog_.apply(node);
}

void Conductor::commit(const CatalogCommand& command, Instant now, ConductorEffects& effects) {
  Work work{now, effects};
  work.confirm = true;
  const FunctionName name = function_of(command);
  const Function* before = catalog_.find(name);
  const bool existed = before != nullptr;
  std::optional<RevisionNumber> served;
  std::optional<RevisionNumber> candidate_before;
  if (existed) {
    served = before->serving;
    candidate_before = before->candidate;
  }
  catalog_.apply(command);
  const Function* after = catalog_.find(name);
  if (after == nullptr) {
    for (const SandboxId id : std::vector<SandboxId>(fleet_.of(name))) {
      Sandbox* sandbox = fleet_.find(id);
      if (sandbox == nullptr) continue;
      if (sandbox->state == SandboxState::ready) {
        drain(*sandbox, work);
      } else if (is_pending(sandbox->state)) {
        stop(*sandbox, work);
      }
    }
    note(name, "deleted", std::nullopt, "deleted", work);
    route_changed(name, work);
    flush_routes(work);
    if (auto& control = control_of(name); control.wakeup) function_wakeups_.erase({*control.wakeup, &control});
    std::erase(start_queue_, &control_of(name));
    controls_.erase(name);
    return;
  }
  FunctionControl& control = control_of(name);
  if (!existed) note(name, "created", after->revisions.back().number, fmt::format("function {} created", name), work);
  if (after->candidate && after->candidate != candidate_before) {
    note(name, "revision", after->candidate, fmt::format("revision {} created", revision_name(name, *after->candidate)), work);
    if (!after->serving) {
      // A new attempt: requests wait for its outcome.
      control.unavailable = Reason::none;
      control.unavailable_detail.clear();
      control.retry_at.reset();
      control.excluded.clear();
    }
  }
  if (after->serving && after->serving != served) {
    note(name, "traffic", after->serving, fmt::format("traffic 100% -> {}", revision_name(name, *after->serving)), work);
    control.failures_in_row = 0;
    control.excluded.clear();
    control.retry_at.reset();
    control.unavailable = Reason::none;
    control.unavailable_detail.clear();
  }
  if (after->candidate != candidate_before && candidate_before && after->serving != candidate_before) {
    // The candidate was replaced or given up: its test instance goes with it.
    for (const SandboxId id : std::vector<SandboxId>(fleet_.of(name))) {
      Sandbox* sandbox = fleet_.find(id);
      if (sandbox != nullptr && sandbox->revision == *candidate_before && sandbox->is_verification &&
          (is_pending(sandbox->state) || sandbox->state == SandboxState::ready)) {
        stop(*sandbox, work);
      }
    }
  }
  route_changed(name, work);
  if (std::get<PutFunction>(command).scale_to_zero) {
    // A new autoscaler: the load that was there must not bring the sandboxes back.
    control.autoscaler.reset();
    control.wanted = 0;  // whoever still waits says so in the next report
    note(name, "scaled", after->serving, "scaled to 0 as told; the next request starts a sandbox", work);
  } else if (after->serving) {
    look(*after, control, false, work);
  }
  reconcile(name, work);
  flush_routes(work);
}

void Conductor::abort(const CatalogCommand& command, Instant now, ConductorEffects& effects) {
  (void)effects;
  const FunctionName& name = function_of(command);
  catalog_.abort(name);
  const auto found = controls_.find(name);
  if (found == controls_.end()) return;
  // A promotion or rejection that could not be written: the candidate is verified once more.
  found->second.verifying.reset();
  found->second.retry_at = now + 1s;
  schedule(found->second);
}

void Conductor::propose(std::optional<CatalogCommand> command, Work& work) {
  if (!command || !catalog_.begin(function_of(*command))) return;
  work.effects.proposals.push_back(std::move(*command));
}

// --- workers ------------------------------------------------------------------------------------------------------

Status Conductor::worker_joined(SessionId session, const WorkerHello& hello, Instant now, ConductorEffects& effects) {
  Work work{now, effects};
  if (Node* known = fleet_.find_node(hello.node.id); known != nullptr && known->session) {
    // The newer connection is the living one: a worker that restarted quickly is back before its old one has timed out.
    effects.disconnects.emplace_back(*known->session, fmt::format("node {} has joined anew", hello.node.id));
  }
  Node& node = fleet_.join(hello.node, session, now);
  fleet_.set_use(node, catalog_.use_of(hello.node.id));
  std::erase_if(lost_nodes_, [&](const auto& lost) { return lost.second == hello.node.id; });

  std::set<SandboxId> reported;
  for (const auto& status : hello.sandboxes) reported.insert(status.id);
  // What it does not run is gone, whatever we ordered.
  for (const SandboxId id : std::vector<SandboxId>(node.sandboxes)) {
    if (reported.contains(id)) continue;
    Sandbox* sandbox = fleet_.find(id);
    SandboxEnd end;
    end.cause = sandbox->state == SandboxState::stopping ? EndCause::requested : EndCause::node_lost;
    end.detail = fmt::format("node {} does not know it after joining anew", node.info.id);
    ended(*sandbox, end, work);
  }
  for (const auto& status : hello.sandboxes) observed(node, status, work);
  // One that was replaced while its node was away is one too many now.
  std::set<FunctionName> touched;
  for (const auto& status : hello.sandboxes) touched.insert(status.function);
  for (const auto& name : touched) reconcile(name, work);
  // A new node is new room: whoever lacked some tries again.
  retry_without_room(work);
  flush_routes(work);
  return {};
}

// In the order of their names, not of the hash table: a run repeats.
void Conductor::retry_without_room(Work& work) {
  for (const auto& [name, function] : catalog_.functions()) {
    FunctionControl& control = control_of(name);
    if (!control.no_room_since) continue;
    control.retry_at.reset();
    reconcile(name, work);
  }
}

void Conductor::worker_said(SessionId session, const WorkerMessage& message, Instant now, ConductorEffects& effects) {
  Node* node = fleet_.node_of(session);
  if (node == nullptr) return;  // an old connection of a node that has joined anew
  Work work{now, effects};
  node->heard_at = now;
  if (const auto* heartbeat = std::get_if<NodeHeartbeat>(&message)) {
    node->usage = heartbeat->usage;
  } else if (const auto* changed = std::get_if<SandboxChanged>(&message)) {
    observed(*node, changed->status, work);
  } else if (const auto* images = std::get_if<NodeImages>(&message)) {
    fleet_.set_images(*node, *images);
  } else {
    fleet_.set_leaving(*node);
    // A data plane that has not come back yet may send requests there.
    if (!recovering(work.now)) evacuate(*node, work);
  }
  flush_routes(work);
}

// Replacements start elsewhere while the leaving worker drains: its sandboxes leave the routes now.
void Conductor::evacuate(Node& node, Work& work) {
  for (const SandboxId id : std::vector<SandboxId>(node.sandboxes)) {
    Sandbox* sandbox = fleet_.find(id);
    if (sandbox->state == SandboxState::ready) {
      drain(*sandbox, work);
    } else if (is_pending(sandbox->state)) {
      stop(*sandbox, work);
    }
  }
  const std::set<FunctionName> touched = work.routes;
  for (const auto& name : touched) reconcile(name, work);
}

void Conductor::worker_lost(SessionId session, Instant now, ConductorEffects& effects) {
  (void)effects;
  Node* node = fleet_.node_of(session);
  if (node == nullptr) return;
  fleet_.lose(*node, now);
  lost_nodes_.emplace(now + options_.node_loss_grace, node->info.id);
}

void Conductor::commit(const SetNodeUse& command, Instant now, ConductorEffects& effects) {
  catalog_.apply(command);
  Node* node = fleet_.find_node(command.node);
  if (node == nullptr) return;
  Work work{now, effects};
  fleet_.set_use(*node, command.use);
  if (command.use == NodeUse::open) retry_without_room(work);
  // On a drained node there are none that count any more; on one that is no longer drained they do again.
  std::set<FunctionName> touched;
  for (const SandboxId id : node->sandboxes) touched.insert(fleet_.find(id)->function);
  for (const auto& name : touched) reconcile(name, work);
  flush_routes(work);
}

Result<std::vector<NodeId>> Conductor::prefetch(const std::string& image, const std::optional<NodeId>& node, ConductorEffects& effects) {
  std::vector<NodeId> asked;
  if (node && fleet_.find_node(*node) == nullptr)
    return failure(ErrorCode::not_found, "node \"{}\" not found (list them: dirigent ctl nodes)", *node);
  for (const auto& [id, one] : fleet_.nodes()) {
    const bool is_meant = node ? id == *node : one.schedulable();
    if (!is_meant || !one.session) continue;
    // What went wrong before says nothing of this attempt.
    fleet_.find_node(id)->images.failed.erase(image);
    effects.worker_orders.emplace_back(*one.session, PrefetchImage{options_.term, image});
    asked.push_back(id);
  }
  if (asked.empty())
    return failure(ErrorCode::not_found, "no node is connected that could get the image {} (list them: dirigent ctl nodes)", image);
  return asked;
}

void Conductor::node_gone(const NodeId& id, Work& work) {
  Node* node = fleet_.find_node(id);
  if (node == nullptr || node->session) return;
  for (const SandboxId sandbox_id : std::vector<SandboxId>(node->sandboxes)) {
    Sandbox* sandbox = fleet_.find(sandbox_id);
    SandboxEnd end;
    end.cause = sandbox->state == SandboxState::stopping ? EndCause::requested : EndCause::node_lost;
    end.detail = fmt::format("the connection of node {} is lost", id);
    ended(*sandbox, end, work);
  }
  fleet_.forget(id);
}

// --- data planes --------------------------------------------------------------------------------------------------

Status Conductor::data_plane_joined(SessionId session, const DataPlaneHello& hello, Instant now, ConductorEffects& effects) {
  Work work{now, effects};
  for (auto plane = data_planes_.begin(); plane != data_planes_.end();) {
    const auto current = plane++;
    if (current->second.hello.id != hello.id) continue;
    // The newer connection is the living one.
    effects.disconnects.emplace_back(current->first, fmt::format("data plane {} has joined anew", hello.id));
    missed_planes_[current->first] = {hello.id, now};
    forget_load(current->first);
    data_planes_.erase(current);
  }
  DataPlane& plane = data_planes_[session];
  plane.hello = hello;
  plane.hello.shares.clear();
  plane.heard_at = now;
  take_in(session, hello, work);
  work.complete.insert(session);
  flush_routes(work);
  return {};
}

void Conductor::data_plane_said(SessionId session, const DataPlaneMessage& message, Instant now, ConductorEffects& effects) {
  const auto plane = data_planes_.find(session);
  if (plane == data_planes_.end()) return;
  plane->second.heard_at = now;
  Work work{now, effects};
  if (const auto* load = std::get_if<FunctionLoad>(&message)) {
    const Function* function = catalog_.find(load->function);
    if (function == nullptr) return;
    FunctionControl& control = control_of(load->function);
    auto& source = control.source_of(session, load->shard);
    source.waiting = load->waiting;
    source.in_flight = load->in_flight;
    source.at = now;
    control.arrivals += load->arrivals;
    control.completions += load->completions;
    control.request_seconds += load->average_concurrency * to_seconds(load->interval);
    control.busy += load->busy;
    for (const SandboxId id : load->occupied) {
      if (Sandbox* sandbox = fleet_.find(id)) sandbox->last_busy_at = now;
    }
    const std::uint32_t waiting = control.waiting();
    if (waiting > 0 && !control.demand_since) control.demand_since = now;
    if (waiting == 0) control.demand_since.reset();
    if (waiting + control.in_flight() > 0) {
      if (!control.next_sample) control.next_sample = now + 1s;
      if (!control.next_look) control.next_look = now;  // a function that was silent is looked at now
    }
    const Revision* revision = function->serving ? function->find(*function->serving) : nullptr;
    if (revision != nullptr && waiting > 0) {
      std::uint32_t serving = 0;
      for (const SandboxId id : fleet_.of(load->function)) {
        const Sandbox* sandbox = fleet_.find(id);
        if (sandbox->is_spare || sandbox->revision != revision->number) continue;
        if (is_pending(sandbox->state) || sandbox->state == SandboxState::ready) ++serving;
      }
      if (serving == 0 || revision->spec.scaling.reaction == Reaction::every_queue) {
        look(*function, control, true, work);
        reconcile(load->function, work);
      }
      rebalance_owners(*function, control, work);
    }
    schedule(control);
  } else if (const auto* released = std::get_if<SlotsReleased>(&message)) {
    slots_released(session, *released, work);
  } else if (const auto* applied = std::get_if<RoutesApplied>(&message)) {
    plane->second.applied = std::max(plane->second.applied, applied->update);
  } else if (const auto* suspected = std::get_if<SandboxSuspected>(&message)) {
    Sandbox* sandbox = fleet_.find(suspected->id);
    if (sandbox != nullptr && sandbox->state == SandboxState::ready) {
      const FunctionName name = sandbox->function;
      note(name, "suspected", sandbox->revision,
           fmt::format("sandbox {} on {} refused a connection ({}), it is replaced", to_string(sandbox->id), sandbox->node, suspected->detail), work);
      drain(*sandbox, work);
      reconcile(name, work);
    }
  } else if (std::get_if<DataPlaneLeaving>(&message) != nullptr) {
    plane->second.leaving = true;
  }
  flush_routes(work);
}

void Conductor::data_plane_lost(SessionId session, Instant now, ConductorEffects& effects) {
  const auto plane = data_planes_.find(session);
  if (plane == data_planes_.end()) return;
  Work work{now, effects};
  const bool has_left = plane->second.leaving;
  if (!has_left) missed_planes_[session] = {plane->second.hello.id, now + options_.data_plane_loss_grace};
  data_planes_.erase(plane);
  forget_load(session);
  if (has_left) forget_shares(session, true, work);
  flush_routes(work);
}

void Conductor::forget_load(SessionId session) {
  for (auto& [name, control] : controls_) {
    std::erase_if(control.sources, [&](const auto& source) { return source.session == session; });
    if (control.waiting() == 0) control.demand_since.reset();
  }
}

// --- time ---------------------------------------------------------------------------------------------------------

std::optional<Instant> Conductor::next_wakeup() const {
  std::optional<Instant> next = recovering_until_;
  const auto earlier = [&](Instant when) {
    if (!next || when < *next) next = when;
  };
  if (!function_wakeups_.empty()) earlier(function_wakeups_.begin()->when);
  if (!sandbox_deadlines_.empty()) earlier(sandbox_deadlines_.begin()->first);
  if (!lost_nodes_.empty()) earlier(lost_nodes_.begin()->first);
  for (const auto& [session, missed] : missed_planes_) earlier(missed.until);
  return next;
}

void Conductor::tick(Instant now, ConductorEffects& effects) {
  Work work{now, effects};
  if (recovering_until_ && now >= *recovering_until_) {
    recovering_until_.reset();
    // From here on what is not known is not there: the data planes get the truth, and every function its due.
    for (const auto& [session, plane] : data_planes_) work.complete.insert(session);
    for (auto& [id, grants] : unreleased_) {
      for (SlotGrant& grant : grants) {
        if (grant.granted > 0) grant.lowered_by = update_number_ + 1;
        grant.granted = 0;
      }
    }
    flush_routes(work);
    for (const auto& [name, function] : catalog_.functions()) {
      FunctionControl& control = control_of(name);
      if (function.serving) look(function, control, control.waiting() > 0, work);
      reconcile(name, work);
    }
    for (const auto& [id, node] : fleet_.nodes()) {
      if (node.leaving) evacuate(*fleet_.find_node(id), work);
    }
  }
  while (!lost_nodes_.empty() && lost_nodes_.begin()->first <= now) {
    const NodeId id = lost_nodes_.begin()->second;
    lost_nodes_.erase(lost_nodes_.begin());
    node_gone(id, work);
  }
  for (auto missed = missed_planes_.begin(); missed != missed_planes_.end();) {
    const auto current = missed++;
    if (current->second.until > now) continue;
    const SessionId session = current->first;
    missed_planes_.erase(current);
    forget_shares(session, false, work);
  }
  while (!sandbox_deadlines_.empty() && sandbox_deadlines_.begin()->first <= now) {
    const SandboxId id = sandbox_deadlines_.begin()->second;
    sandbox_deadlines_.erase(sandbox_deadlines_.begin());
    Sandbox* sandbox = fleet_.find(id);
    if (sandbox == nullptr) continue;
    sandbox->deadline.reset();
    if (sandbox->state == SandboxState::draining || sandbox->state == SandboxState::stopping) stop(*sandbox, work);
  }
  while (!function_wakeups_.empty() && function_wakeups_.begin()->when <= now) {
    FunctionControl& control = *function_wakeups_.begin()->control;
    const FunctionName& name = *control.name;
    function_wakeups_.erase(function_wakeups_.begin());
    control.wakeup.reset();
    const Function* function = catalog_.find(name);
    if (function == nullptr) continue;
    if (control.next_sample && *control.next_sample <= now) {
      std::erase_if(control.sources, [&](const auto& source) { return now - source.at > kReportSilenceMax; });
      sample(*function, control, false, work);
    }
    if (control.next_look && *control.next_look <= now) look(*function, control, false, work);
    reconcile(name, work);
  }
  flush_routes(work);
}

void Conductor::check_invariants() const {
  std::map<NodeId, Resources> reserved;
  for (const auto& [id, sandbox] : fleet_.sandboxes()) {
    ASSERT(sandbox.state != SandboxState::gone, "sandbox {} is kept though gone", to_string(id));
    reserved[sandbox.node] += sandbox.reserved;
    ASSERT(!sandbox.is_spare || sandbox.grants.empty(), "spare {} is routed to", to_string(id));
    ASSERT(sandbox.is_spare == spares_.contains(id), "sandbox {} is a spare in one book only", to_string(id));
    ASSERT(fleet_.nodes().contains(sandbox.node), "sandbox {} on unknown node {}", to_string(id), sandbox.node);
    for (const SlotGrant& grant : sandbox.grants) {
      ASSERT(grant.granted <= grant.held, "sandbox {}: {} granted, {} held", to_string(id), grant.granted, grant.held);
    }
    ASSERT(sandbox.concurrency_limit == 0 || sandbox.held() <= sandbox.concurrency_limit || sandbox.is_overcommitted,
           "sandbox {}: {} slots are held of {}", to_string(id), sandbox.held(), sandbox.concurrency_limit);
  }
  for (const auto& [id, node] : fleet_.nodes()) {
    ASSERT(reserved[id] == node.reserved, "node {} has a reservation that no sandbox explains", id);
  }
}

}  // namespace dirigent::core
