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
  ++control_life_;
  core::ConductorOptions options;
  options.term = Term{++term_.value};
  options.seed = options_.seed + term_.value;
  options.autoscaler = options_.autoscaler;
  options.placement = options_.placement;
  conductor_ = std::make_unique<core::Conductor>(options);
  control_armed_.reset();
  std::vector<Function> functions;
  for (const auto& [name, function] : durable_) functions.push_back(function);
  conductor_->restore(std::move(functions), now_);
  core::ConductorEffects effects;
  perform(effects);
}

void Cluster::stop_control() {
  ++control_life_;
  conductor_.reset();
  writing_.clear();
  for (std::uint32_t i = 0; i < connections_.size(); ++i) {
    Connection& connection = connections_[i];
    const bool is_joining = connection.client_open && links_[connection.link].connection == i;
    if (!connection.server_open && !is_joining) continue;
    connection.server_open = false;
    connection.up.clear();
    if (!connection.client_open || connection.is_cut) continue;
    connection.last_down = std::max(connection.last_down, now_ + delay_of(links_[connection.link]));
    events_.add(connection.last_down, EventKind::client_lost, i);
  }
  sessions_.clear();
}

void Cluster::deploy_all() {
  for (const auto& function : workload_.functions) {
    RevisionSpec spec = options_.spec;
    spec.resources.memory = std::min(function.memory, options_.node_capacity.memory);
    const auto plan = conductor_->catalog().plan_deploy(function.name, spec, true, false, {});
    ASSERT(plan.has_value(), "cannot deploy {}: {}", function.name, plan.error().message);
    core::ConductorEffects effects;
    conductor_->commit(plan->command, now_, effects);
    durable_[function.name] = *conductor_->catalog().find(function.name);
    perform(effects);
  }
}

void Cluster::hear(std::uint32_t number, UpMessage message) {
  Connection& connection = connections_[number];
  core::ConductorEffects effects;
  if (auto* worker_hello = std::get_if<WorkerHello>(&message)) {
    connection.session = SessionId{++next_session_};
    connection.server_open = true;
    sessions_[connection.session] = number;
    const Status joined = conductor_->worker_joined(connection.session, *worker_hello, now_, effects);
    ASSERT(joined.has_value(), "{}", joined.error().message);
    send_down(connection.session, Joined{term_});
  } else if (auto* plane_hello = std::get_if<DataPlaneHello>(&message)) {
    connection.session = SessionId{++next_session_};
    connection.server_open = true;
    sessions_[connection.session] = number;
    const Status joined = conductor_->data_plane_joined(connection.session, *plane_hello, now_, effects);
    ASSERT(joined.has_value(), "{}", joined.error().message);
    send_down(connection.session, Joined{term_});
  } else if (auto* worker_message = std::get_if<WorkerMessage>(&message)) {
    conductor_->worker_said(connection.session, *worker_message, now_, effects);
  } else {
    conductor_->data_plane_said(connection.session, std::get<DataPlaneMessage>(message), now_, effects);
  }
  perform(effects);
  const bool is_hello = message.index() <= 1;
  // A hello that came out of a connection whose end was not seen: silence will tell.
  if (is_hello && (connection.is_cut || !connection.client_open)) {
    add(Duration(static_cast<std::int64_t>(rng_.below(3'000'000'000))), EventKind::server_lost, number);
  }
}

void Cluster::lose(std::uint32_t number) {
  if (!conductor_) return;
  Connection& connection = connections_[number];
  core::ConductorEffects effects;
  if (is_worker(connection.link)) {
    conductor_->worker_lost(connection.session, now_, effects);
  } else {
    conductor_->data_plane_lost(connection.session, now_, effects);
  }
  sessions_.erase(connection.session);
  perform(effects);
}

void Cluster::tick_control(Instant armed) {
  if (!conductor_ || control_armed_ != armed) return;
  control_armed_.reset();
  core::ConductorEffects effects;
  conductor_->tick(now_, effects);
  perform(effects);
}

void Cluster::make_durable() {
  const core::CatalogCommand command = std::move(writing_.front());
  writing_.pop_front();
  core::ConductorEffects effects;
  if (const auto* put = std::get_if<core::PutFunction>(&command)) {
    durable_[put->function.name] = put->function;
  } else {
    durable_.erase(core::function_of(command));
  }
  conductor_->commit(command, now_, effects);
  perform(effects);
}

void Cluster::perform(core::ConductorEffects& effects) {
  for (auto& [session, order_message] : effects.worker_orders) send_down(session, std::move(order_message));
  for (auto& [session, order_message] : effects.data_plane_orders) send_down(session, std::move(order_message));
  for (auto& [session, why] : effects.disconnects) {
    if (const auto found = sessions_.find(session); found != sessions_.end()) add(Duration::zero(), EventKind::server_lost, found->second);
  }
  for (auto& command : effects.proposals) {
    writing_.push_back(std::move(command));
    add(kWriteTime, EventKind::durable, 0, 0, control_life_);
  }
  const auto next = conductor_->next_wakeup();
  if (!next || (control_armed_ && *control_armed_ <= *next)) return;
  control_armed_ = std::max(*next, now_);
  events_.add(*control_armed_, EventKind::control_timer, 0, 0, control_life_);
}

}  // namespace dirigent::sim
