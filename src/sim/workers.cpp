// SPDX-License-Identifier: MIT
//
// The workers' processes: a keeper and a modelled runtime, whose sandboxes start after a drawn time and answer the first
// probe.
#include "dirigent/base/assert.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {
constexpr Duration kProbeTime = 100us;
constexpr Duration kRemoveTime = 1ms;
constexpr int kSlowFactor = 10;  // of launches on a slow worker
}  // namespace

void Cluster::start_worker(std::uint32_t number) {
  Worker& worker = workers_[number];
  Link& link = links_[number];
  worker.is_alive = true;
  ++worker.life;
  worker.keeper = std::make_unique<core::Keeper>(core::KeeperOptions{});
  worker.armed.reset();
  worker.term = Term{};
  link.life = worker.life;
  link.is_alive = true;
  link.tries = 0;
  add(delay_of(link), EventKind::connect, number, 0, link.life);
  // Spread over the second, as those of real workers are.
  add(Duration(static_cast<std::int64_t>(rng_.below(1'000'000'000))), EventKind::heartbeat, number, 0, link.life);
}

void Cluster::stop_worker(std::uint32_t number) {
  Worker& worker = workers_[number];
  worker.is_alive = false;
  ++worker.life;
  std::vector<SandboxId> its;
  for (const auto& [id, sandbox] : sandboxes_) {
    if (sandbox.worker == number) its.push_back(id);
  }
  for (const SandboxId id : its) end_sandbox(id);
  worker.keeper.reset();
  client_died(number);
}

WorkerHello Cluster::hello_of(std::uint32_t number) {
  WorkerHello hello;
  hello.node.id = NodeId{fmt::format("node-{:04}", number)};
  hello.node.host = hello.node.id.value;
  hello.node.host_id = hello.node.id.value;
  hello.node.capacity = options_.node_capacity;
  hello.node.starts_max = options_.starts_max;
  hello.sandboxes = workers_[number].keeper->statuses(now_);
  return hello;
}

void Cluster::order(std::uint32_t number, const WorkerOrder& order_message) {
  core::KeeperEffects effects;
  Worker& worker = workers_[number];
  worker.keeper->ordered(order_message, now_, effects);
  const Term term = std::visit([](const auto& any) { return any.term; }, order_message);
  if (term < worker.term && (!effects.launches.empty() || !effects.removals.empty())) {
    violate(fmt::format("worker {} obeys an order of term {} after one of term {}", number, term, worker.term));
  }
  worker.term = std::max(worker.term, term);
  perform(number, effects);
}

void Cluster::tick_worker(std::uint32_t number, Instant armed) {
  Worker& worker = workers_[number];
  if (worker.armed != armed) return;
  worker.armed.reset();
  core::KeeperEffects effects;
  worker.keeper->tick(now_, effects);
  perform(number, effects);
}

void Cluster::launched(std::uint32_t number, SandboxId id, bool has_failed) {
  core::KeeperEffects effects;
  if (has_failed) {
    ++measure_.outcome().start_failures;
    workers_[number].keeper->launched(id, failure(ErrorCode::internal, "the simulated start failed"), now_, effects);
  } else {
    SandboxAddress address;
    address.published = fmt::format("node-{:04}:{}", number, id.value & 0xffff);
    workers_[number].keeper->launched(id, core::Keeper::LaunchedAt{address, {}}, now_, effects);
  }
  perform(number, effects);
}

void Cluster::probed(std::uint32_t number, SandboxId id) {
  core::KeeperEffects effects;
  const auto found = sandboxes_.find(id);
  if (found != sandboxes_.end()) measure_.became_ready(now_);
  workers_[number].keeper->probed(id, found != sandboxes_.end(), now_, effects);
  perform(number, effects);
}

void Cluster::removed(std::uint32_t number, SandboxId id) {
  core::KeeperEffects effects;
  core::Keeper& keeper = *workers_[number].keeper;
  if (sandboxes_.contains(id)) {
    end_sandbox(id);
    SandboxEnd end;
    end.cause = EndCause::requested;
    end.detail = "stopped";
    keeper.ended(id, end, now_, effects);
  }
  keeper.removed(id, now_, effects);
  perform(number, effects);
}

void Cluster::crashed(std::uint32_t number, SandboxId id) {
  if (!sandboxes_.contains(id)) return;
  end_sandbox(id);
  core::KeeperEffects effects;
  SandboxEnd end;
  end.cause = EndCause::exited;
  end.exit_code = 1;
  end.detail = "the simulated process ended";
  workers_[number].keeper->ended(id, end, now_, effects);
  perform(number, effects);
}

void Cluster::end_sandbox(SandboxId id) {
  const auto found = sandboxes_.find(id);
  SimSandbox& sandbox = found->second;
  if (!sandbox.requests.empty()) sandbox.busy += now_ - sandbox.busy_since;
  for (const std::uint32_t index : sandbox.requests) {
    set_state(requests_[index], RequestState::breaking);
    add(options_.network_delay.draw(rng_), EventKind::broken, 0, ticket(index));
  }
  measure_.sandbox_ended(sandbox.started, now_, sandbox.busy);
  sandboxes_.erase(found);
}

void Cluster::perform(std::uint32_t number, core::KeeperEffects& effects) {
  Worker& worker = workers_[number];
  for (auto& message : effects.messages) send_up(number, std::move(message));
  for (const auto& launch : effects.launches) {
    Duration time = options_.start_time.draw(rng_);
    if (now_ < worker.slow_until) time *= kSlowFactor;
    const bool fails = options_.faults.start > 0 && now_ < faults_until_ && rng_.unit() < options_.faults.start;
    add(time, fails ? EventKind::launch_failed : EventKind::launched, number, launch.order.id.value, worker.life);
    if (fails) continue;
    if (sandboxes_.contains(launch.order.id)) violate(fmt::format("sandbox {} is started a second time", to_string(launch.order.id)));
    // It exists from here on; that it is not ready yet nobody but its keeper knows.
    SimSandbox& sandbox = sandboxes_[launch.order.id];
    sandbox.worker = number;
    sandbox.function = function_numbers_.at(launch.order.function);
    sandbox.limit = launch.order.spec.concurrency_limit;
    sandbox.started = now_;
    measure_.sandboxes(sandboxes_.size());
  }
  for (const auto& probe : effects.probes) add(kProbeTime, EventKind::probed, number, probe.id.value, worker.life);
  for (const auto& removal : effects.removals) add(kRemoveTime, EventKind::removed, number, removal.id.value, worker.life);
  const auto next = worker.keeper->next_wakeup();
  if (!next || (worker.armed && *worker.armed <= *next)) return;
  worker.armed = std::max(*next, now_);
  events_.add(*worker.armed, EventKind::worker_timer, number, 0, worker.life);
}

}  // namespace dirigent::sim
