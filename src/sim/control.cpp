// SPDX-License-Identifier: MIT
//
// The control plane's process: the conductor, its timer, and the writes of its catalog.
#include "dirigent/base/assert.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {
constexpr Duration kWriteTime = 300us;  // of one record to the state log
}

void Cluster::start_control() {
  std::vector<Function> functions;
  for (const auto& [name, function] : durable_) functions.push_back(function);
  make_conductor(0, Term{++term_.value}, std::move(functions));
}

void Cluster::make_conductor(std::uint32_t number, Term term, std::vector<Function> functions) {
  Control& control = controls_[number];
  ++control.life;
  core::ConductorOptions options;
  options.term = term;
  options.seed = options_.seed + term.value;
  options.autoscaler = options_.autoscaler;
  options.placement = options_.placement;
  control.conductor = std::make_unique<core::Conductor>(options);
  control.armed.reset();
  control.conductor->restore(std::move(functions), now_);
  core::ConductorEffects effects;
  perform(number, effects);
}

void Cluster::stop_control(std::uint32_t number) {
  Control& control = controls_[number];
  ++control.life;
  control.conductor.reset();
  control.writing.clear();
  control.proposed.clear();
  for (std::uint32_t i = 0; i < connections_.size(); ++i) {
    Connection& connection = connections_[i];
    if (connection.control != number) continue;
    const bool is_joining = connection.client_open && links_[connection.link].connection == i;
    if (!connection.server_open && !is_joining) continue;
    connection.server_open = false;
    sessions_.erase(connection.session);
    connection.up.clear();
    if (!connection.client_open || connection.is_cut) continue;
    connection.last_down = std::max(connection.last_down, now_ + delay_of(links_[connection.link]));
    events_.add(connection.last_down, EventKind::client_lost, i);
  }
}

void Cluster::deploy_all() {
  for (const auto& function : workload_.functions) {
    RevisionSpec spec = options_.spec;
    spec.resources.memory = std::min(function.memory, options_.node_capacity.memory);
    core::Conductor& conductor = *controls_[0].conductor;
    const auto plan = conductor.catalog().plan_deploy(function.name, spec, true, false, {});
    ASSERT(plan.has_value(), "cannot deploy {}: {}", function.name, plan.error().message);
    core::ConductorEffects effects;
    conductor.commit(plan->command, now_, effects);
    durable_[function.name] = *conductor.catalog().find(function.name);
    perform(0, effects);
  }
}

void Cluster::hear(std::uint32_t number, UpMessage message) {
  Connection& connection = connections_[number];
  const std::uint32_t control = connection.control;
  core::Conductor* conductor = controls_[control].conductor.get();
  core::ConductorEffects effects;
  if (auto* worker_hello = std::get_if<WorkerHello>(&message)) {
    connection.session = SessionId{++next_session_};
    connection.server_open = true;
    sessions_[connection.session] = number;
    const Status joined = conductor->worker_joined(connection.session, *worker_hello, now_, effects);
    ASSERT(joined.has_value(), "{}", joined.error().message);
    send_down(connection.session, Joined{conductor->options().term});
  } else if (auto* plane_hello = std::get_if<DataPlaneHello>(&message)) {
    connection.session = SessionId{++next_session_};
    connection.server_open = true;
    sessions_[connection.session] = number;
    const Status joined = conductor->data_plane_joined(connection.session, *plane_hello, now_, effects);
    ASSERT(joined.has_value(), "{}", joined.error().message);
    send_down(connection.session, Joined{conductor->options().term});
  } else if (auto* worker_message = std::get_if<WorkerMessage>(&message)) {
    conductor->worker_said(connection.session, *worker_message, now_, effects);
  } else {
    conductor->data_plane_said(connection.session, std::get<DataPlaneMessage>(message), now_, effects);
  }
  perform(control, effects);
  const bool is_hello = message.index() <= 1;
  // A hello that came out of a connection whose end was not seen: silence will tell.
  if (is_hello && (connection.is_cut || !connection.client_open)) {
    add(Duration(static_cast<std::int64_t>(rng_.below(3'000'000'000))), EventKind::server_lost, number);
  }
}

void Cluster::lose(std::uint32_t number) {
  Connection& connection = connections_[number];
  core::Conductor* conductor = controls_[connection.control].conductor.get();
  if (conductor == nullptr) return;
  core::ConductorEffects effects;
  if (is_worker(connection.link)) {
    conductor->worker_lost(connection.session, now_, effects);
  } else {
    conductor->data_plane_lost(connection.session, now_, effects);
  }
  sessions_.erase(connection.session);
  perform(connection.control, effects);
}

void Cluster::tick_control(std::uint32_t number, Instant armed) {
  Control& control = controls_[number];
  if (!control.conductor || control.armed != armed) return;
  if (const Instant later = paused_until(number); later > now_) {
    control.armed = later;
    events_.add(later, EventKind::control_timer, number, 0, control.life);
    return;
  }
  control.armed.reset();
  core::ConductorEffects effects;
  control.conductor->tick(now_, effects);
  perform(number, effects);
}

void Cluster::make_durable() {
  Control& control = controls_[0];
  const core::CatalogCommand command = std::move(control.writing.front());
  control.writing.pop_front();
  core::ConductorEffects effects;
  if (const auto* put = std::get_if<core::PutFunction>(&command)) {
    durable_[put->function.name] = put->function;
  } else {
    durable_.erase(core::function_of(command));
  }
  control.conductor->commit(command, now_, effects);
  perform(0, effects);
}

void Cluster::perform(std::uint32_t number, core::ConductorEffects& effects) {
  for (auto& [session, order_message] : effects.worker_orders) send_down(session, std::move(order_message));
  for (auto& [session, order_message] : effects.data_plane_orders) send_down(session, std::move(order_message));
  for (auto& [session, why] : effects.disconnects) {
    if (const auto found = sessions_.find(session); found != sessions_.end()) add(Duration::zero(), EventKind::server_lost, found->second);
  }
  Control& control = controls_[number];
  const std::uint32_t life = control.life;
  for (auto& command : effects.proposals) {
    if (has_group()) {
      propose(number, std::move(command));
      continue;
    }
    control.writing.push_back(std::move(command));
    add(kWriteTime, EventKind::durable, 0, 0, control.life);
  }
  // A proposal may have ended the leadership.
  if (!control.conductor || control.life != life) return;
  const auto next = control.conductor->next_wakeup();
  if (!next || (control.armed && *control.armed <= *next)) return;
  control.armed = std::max(*next, now_);
  events_.add(*control.armed, EventKind::control_timer, number, 0, control.life);
}

}  // namespace dirigent::sim
