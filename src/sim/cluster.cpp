// SPDX-License-Identifier: MIT
#include "sim/cluster.h"

#include "dirigent/base/assert.h"

namespace dirigent::sim {

namespace {

constexpr Duration kJoinTime = 1s;           // the cluster comes together before the first request
constexpr std::uint64_t kProgressEvery = 1 << 17;
constexpr Duration kStragglerTime = 200s;    // the longest wait, run time and drain after the last arrival

}  // namespace

Cluster::Cluster(const SimOptions& options, const Workload& workload)
    : options_(options), workload_(workload), rng_(options.seed),
      measure_(Instant(kJoinTime + options.warm_up), workload.functions.size()), begin_(kJoinTime) {
  faults_until_ = begin_;
  if (options.faults.any()) {
    faults_until_ += options.faults_for > Duration::zero() ? options.faults_for : workload.length;
    events_.add(faults_until_, EventKind::calm);
  }
  links_.resize(options.nodes + options.data_planes);
  workers_.resize(options.nodes);
  planes_.resize(options.data_planes);
  for (std::uint32_t i = 0; i < workload.functions.size(); ++i) function_numbers_.emplace(workload.functions[i].name, i);
  if (options.control_members > 1) {
    form_group();
  } else {
    controls_.resize(1);
    start_control();
    deploy_all();
  }
  for (std::uint32_t i = 0; i < options.nodes; ++i) start_worker(i);
  for (std::uint32_t i = 0; i < options.data_planes; ++i) start_plane(i);
  plan_fault();
}

Outcome Cluster::run() {
  const Instant end = begin_ + workload_.length;
  // Without load everything scales to zero within the windows and the drain time; with the checkers on, that is waited for.
  const Duration settling = options_.check_every_step
                                ? options_.spec.scaling.stable_window + options_.spec.scaling.scale_to_zero_grace +
                                      options_.spec.scaling.last_sandbox_retention + options_.spec.scaling.scale_down_delay + 150s
                                : Duration::zero();
  while (violation_.empty()) {
    const bool has_arrival = next_arrival_ < workload_.arrivals.size();
    const Instant arrival_at = has_arrival ? begin_ + workload_.arrivals[next_arrival_].at : Instant::max();
    const Instant event_at = events_.empty() ? Instant::max() : events_.next_at();
    const Instant group_at = has_group() ? group_->next_at() : Instant::max();
    const Instant next = std::min({arrival_at, event_at, group_at});
    if (!has_arrival && unanswered_ == 0 && next > end + settling) break;
    if (!has_arrival && next > end + settling + kStragglerTime) {
      now_ = next;
      violate(fmt::format("{} requests are still without an answer {} after the last arrival", unanswered_, format_duration(settling + kStragglerTime)));
      break;
    }
    now_ = next;
    if (has_group() && group_at > next) group_->advance(next);
    if (++handled_ % kProgressEvery == 0 && options_.progress) {
      options_.progress(to_seconds(now_ - begin_) / to_seconds(workload_.length + settling));
    }
    if (has_group() && group_at <= std::min(arrival_at, event_at)) {
      group_->step(next);
      if (!group_->violation().empty()) violate(group_->violation());
    } else if (arrival_at <= event_at) {
      arrive(workload_.arrivals[next_arrival_++]);
    } else {
      handle(events_.take());
    }
    if (options_.check_every_step || (handled_ & 0xffff) == 0) check_step();
  }
  if (violation_.empty() && options_.check_every_step) check_quiet();
  for (const auto& [id, sandbox] : sandboxes_) {
    const Duration running = sandbox.requests.empty() ? Duration::zero() : now_ - sandbox.busy_since;
    measure_.sandbox_ended(sandbox.started, now_, sandbox.busy + running);
  }
  Outcome outcome = measure_.finish();
  outcome.violation = violation_;
  outcome.events = handled_;
  outcome.simulated = now_ - begin_;
  return outcome;
}

void Cluster::handle(const Event& event) {
  switch (event.kind) {
    case EventKind::message_up: return deliver_up(event.a);
    case EventKind::message_down: return deliver_down(event.a);
    case EventKind::client_lost: return client_lost(event.a);
    case EventKind::server_lost: return server_lost(event.a);
    case EventKind::connect: return connect(event.a, event.life);
    case EventKind::heartbeat: return heartbeat(event.a, event.life);
    case EventKind::control_timer: return event.life == controls_[event.a].life ? tick_control(event.a, event.at) : void();
    case EventKind::control_start:
      if (!has_group()) return start_control();
      controls_[event.a].is_alive = true;
      return group_->restart(event.a + 1);
    case EventKind::durable: return event.life == controls_[0].life ? make_durable() : void();
    case EventKind::group_heal: return group_->heal();
    case EventKind::plane_start: return start_plane(event.a);
    case EventKind::worker_start: return start_worker(event.a);
    case EventKind::plane_timer:
      if (event.life == planes_[event.a].life) tick_plane(event.a, static_cast<std::uint32_t>(event.b), event.at);
      return;
    case EventKind::plane_mail:
      if (event.life == planes_[event.a].life) open_mail(event.a, static_cast<std::uint32_t>(event.b));
      return;
    case EventKind::finished:
    case EventKind::refused:
    case EventKind::broken:
      if (const auto request = find_request(event.b)) {
        const RequestState state = requests_[*request].state;
        if (event.kind == EventKind::finished && state == RequestState::running) finish(*request);
        if (event.kind == EventKind::refused && state == RequestState::connecting) retry(*request);
        if (event.kind == EventKind::broken && state == RequestState::breaking) break_off(*request);
      }
      return;
    case EventKind::fault: return inject_fault();
    case EventKind::calm: return calm_down();
    default: break;
  }
  if (event.life != workers_[event.a].life || !workers_[event.a].is_alive) return;
  const SandboxId id{event.b};
  if (event.kind == EventKind::worker_timer) tick_worker(event.a, event.at);
  if (event.kind == EventKind::launched) launched(event.a, id, false);
  if (event.kind == EventKind::launch_failed) launched(event.a, id, true);
  if (event.kind == EventKind::probed) probed(event.a, id);
  if (event.kind == EventKind::removed) removed(event.a, id);
  if (event.kind == EventKind::crashed) crashed(event.a, id);
}

// --- requests -----------------------------------------------------------------------------------------------------

std::optional<std::uint32_t> Cluster::find_request(std::uint64_t ticket) const {
  const auto index = static_cast<std::uint32_t>(ticket);
  const Request& request = requests_[index];
  if (request.state == RequestState::unused || request.generation != static_cast<std::uint32_t>(ticket >> 32)) return std::nullopt;
  return index;
}

void Cluster::set_state(Request& request, RequestState state) {
  std::uint32_t& parked = planes_[request.plane].parked[request.function];
  if (request.state == RequestState::parked) --parked;
  request.state = state;
  if (state == RequestState::parked && ++parked > options_.spec.limits.queue_depth) {
    violate(fmt::format("{} requests of {} wait on data plane {}, the limit is {}", parked, workload_.functions[request.function].name,
                        request.plane, options_.spec.limits.queue_depth));
  }
}

void Cluster::arrive(const Arrival& arrival) {
  if (planes_alive_.empty()) {
    // What is in front of the data planes finds none of them.
    measure_.failed(now_, "no-data-plane");
    return;
  }
  const std::uint32_t plane_number = planes_alive_.size() == 1 ? planes_alive_[0] : planes_alive_[rng_.below(planes_alive_.size())];
  Plane& plane = planes_[plane_number];
  const std::uint32_t shard = plane.shards.size() == 1 ? 0 : static_cast<std::uint32_t>(rng_.below(plane.shards.size()));
  core::Dispatcher& dispatcher = *plane.shards[shard].dispatcher;
  const core::RoutedFunction* routed = dispatcher.find(workload_.functions[arrival.function].name.value);
  if (routed == nullptr) {
    if (is_healed(now_)) violate(fmt::format("function {} is unknown to data plane {}", workload_.functions[arrival.function].name, plane_number));
    measure_.failed(now_, plane.switchboard->complete() ? "not-found" : "no-routes");
    return;
  }
  std::uint32_t index = 0;
  if (unused_.empty()) {
    index = static_cast<std::uint32_t>(requests_.size());
    requests_.emplace_back();
  } else {
    index = unused_.back();
    unused_.pop_back();
  }
  Request& request = requests_[index];
  request.arrived = now_;
  request.run_time = arrival.run_time;
  request.function = arrival.function;
  ++request.generation;
  request.plane = plane_number;
  request.shard = shard;
  request.place_in_plane = static_cast<std::uint32_t>(plane.requests.size());
  plane.requests.push_back(index);
  ++unanswered_;
  core::DispatcherEffects& effects = effects_of_shard();
  const core::Admission admission = dispatcher.arrive(*routed, core::RequestToken{ticket(index)}, now_, effects);
  admit(index, admission);
  perform(plane_number, shard, effects);
}

void Cluster::admit(std::uint32_t index, const core::Admission& admission) {
  switch (admission.kind) {
    case core::Admission::Kind::forward: return forward(index, admission.lease);
    case core::Admission::Kind::parked: return set_state(requests_[index], RequestState::parked);
    case core::Admission::Kind::refused: return answer(index, to_string(admission.refusal.reason));
  }
}

// The request travels to the sandbox, runs, and its response travels back; when nobody listens there, the refusal does.
void Cluster::forward(std::uint32_t index, const core::Lease& lease) {
  Request& request = requests_[index];
  request.lease = lease;
  request.sandbox = lease.sandbox->sandbox.id;
  const Duration there_and_back = options_.network_delay.draw(rng_) + options_.network_delay.draw(rng_);
  const auto found = sandboxes_.find(request.sandbox);
  if (found == sandboxes_.end()) {
    set_state(request, RequestState::connecting);
    add(there_and_back, EventKind::refused, 0, ticket(index));
    return;
  }
  SimSandbox& sandbox = found->second;
  if (sandbox.function != request.function) {
    violate(fmt::format("a request of {} is forwarded to sandbox {} of {}", workload_.functions[request.function].name,
                        to_string(request.sandbox), workload_.functions[sandbox.function].name));
  }
  set_state(request, RequestState::running);
  if (sandbox.requests.empty()) sandbox.busy_since = now_;
  request.place_in_sandbox = static_cast<std::uint32_t>(sandbox.requests.size());
  sandbox.requests.push_back(index);
  check_sandbox(sandbox, request.sandbox);
  add(there_and_back + request.run_time, EventKind::finished, 0, ticket(index));
}

void Cluster::leave_sandbox(std::uint32_t index) {
  Request& request = requests_[index];
  const auto found = sandboxes_.find(request.sandbox);
  if (found == sandboxes_.end()) return;
  SimSandbox& sandbox = found->second;
  const std::uint32_t last = sandbox.requests.back();
  sandbox.requests[request.place_in_sandbox] = last;
  requests_[last].place_in_sandbox = request.place_in_sandbox;
  sandbox.requests.pop_back();
  if (sandbox.requests.size() <= sandbox.limit) sandbox.is_exceeding = false;
  if (sandbox.requests.empty()) sandbox.busy += now_ - sandbox.busy_since;
}

void Cluster::finish(std::uint32_t index) {
  leave_sandbox(index);
  const core::Lease lease = requests_[index].lease;
  const std::uint32_t plane = requests_[index].plane;
  const std::uint32_t shard = requests_[index].shard;
  answer(index, "");
  core::DispatcherEffects& effects = effects_of_shard();
  planes_[plane].shards[shard].dispatcher->finish(lease, core::Outcome::answered, now_, effects);
  perform(plane, shard, effects);
}

void Cluster::retry(std::uint32_t index) {
  const Request request = requests_[index];
  core::DispatcherEffects& effects = effects_of_shard();
  const core::Admission admission = planes_[request.plane].shards[request.shard].dispatcher->retry(
      request.lease, core::RequestToken{ticket(index)}, "connection refused", now_, effects);
  admit(index, admission);
  perform(request.plane, request.shard, effects);
}

// The sandbox ended under the request.
void Cluster::break_off(std::uint32_t index) {
  const Request request = requests_[index];
  answer(index, to_string(Reason::sandbox_lost));
  core::DispatcherEffects& effects = effects_of_shard();
  planes_[request.plane].shards[request.shard].dispatcher->finish(request.lease, core::Outcome::failed, now_, effects);
  perform(request.plane, request.shard, effects);
}

void Cluster::answer(std::uint32_t index, std::string_view reason) {
  Request& request = requests_[index];
  ASSERT(request.state != RequestState::unused || request.generation > 0, "request {}", index);
  if (reason.empty()) {
    measure_.succeeded(request.function, request.arrived, now_ - request.arrived, request.run_time, request.lease.cold());
  } else {
    measure_.failed(request.arrived, reason);
    if (is_healed(request.arrived)) {
      violate(fmt::format("a request of {} was refused ({}) though it arrived {} after the last fault",
                          workload_.functions[request.function].name, reason, format_duration(request.arrived - faults_until_)));
    }
  }
  set_state(request, RequestState::unused);
  auto& peers = planes_[request.plane].requests;
  const std::uint32_t last = peers.back();
  peers[request.place_in_plane] = last;
  requests_[last].place_in_plane = request.place_in_plane;
  peers.pop_back();
  unused_.push_back(index);
  --unanswered_;
}

Outcome simulate(const SimOptions& options, const Workload& workload) { return Cluster(options, workload).run(); }

}  // namespace dirigent::sim
