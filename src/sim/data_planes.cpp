// SPDX-License-Identifier: MIT
//
// The data planes' processes: a switchboard on the main loop, a dispatcher on each shard's, and the mail between loops.
// Shard 0 lives on the main loop: what it is told there comes at once, as in the data role.
#include "dirigent/base/assert.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {
constexpr std::uint64_t kMailDelayMax = 20'000;  // nanoseconds until another loop has its turn
}

void Cluster::start_plane(std::uint32_t number) {
  Plane& plane = planes_[number];
  Link& link = links_[options_.nodes + number];
  plane.is_alive = true;
  ++plane.life;
  plane.switchboard = std::make_unique<core::Switchboard>(options_.shards);
  plane.shards.resize(options_.shards);
  plane.mailboxes.resize(options_.shards + 1);
  plane.parked.assign(workload_.functions.size(), 0);
  plane.term = Term{};
  for (std::uint32_t i = 0; i < options_.shards; ++i) {
    core::DispatcherOptions options;
    options.shard = i;
    options.shards = options_.shards;
    options.balancer = options_.balancer;
    options.seed = options_.seed + (std::uint64_t{number} << 32) + (std::uint64_t{plane.life} << 8) + i;
    plane.shards[i].dispatcher = std::make_unique<core::Dispatcher>(options);
  }
  planes_alive_.push_back(number);
  link.life = plane.life;
  link.is_alive = true;
  link.tries = 0;
  add(delay_of(link), EventKind::connect, options_.nodes + number, 0, link.life);
  add(1s, EventKind::heartbeat, options_.nodes + number, 0, link.life);
}

// Killed: its requests fail, its sandboxes' requests are cancelled, its soft state is gone.
void Cluster::stop_plane(std::uint32_t number) {
  Plane& plane = planes_[number];
  while (!plane.requests.empty()) {
    const std::uint32_t index = plane.requests.back();
    if (requests_[index].state == RequestState::running) leave_sandbox(index);
    answer(index, "data-plane-lost");
  }
  plane.is_alive = false;
  ++plane.life;
  std::erase(planes_alive_, number);
  // The mail may hold pointers into the switchboard; the dispatchers do.
  plane.mailboxes.clear();
  plane.shards.clear();
  plane.switchboard.reset();
  client_died(options_.nodes + number);
}

void Cluster::apply(std::uint32_t number, RouteUpdate update) {
  Plane& plane = planes_[number];
  if (options_.spoil_routes) options_.spoil_routes(update);
  core::SwitchboardEffects effects;
  plane.switchboard->apply(update, now_, effects);
  if (update.term < plane.term && !effects.published.empty()) {
    violate(fmt::format("data plane {} takes routes of term {} after some of term {}", number, update.term, plane.term));
  }
  plane.term = std::max(plane.term, update.term);
  perform(number, effects);
}

void Cluster::apply_to_shard(std::uint32_t number, const ShardApply& to_apply) {
  check_routes(number, to_apply.shard, *to_apply.change);
  core::DispatcherEffects& effects = effects_of_shard();
  planes_[number].shards[to_apply.shard].dispatcher->apply(*to_apply.change, now_, effects);
  perform(number, to_apply.shard, effects);
  post(number, options_.shards, ShardApplied{to_apply.shard, to_apply.change->number});
}

void Cluster::perform(std::uint32_t number, core::SwitchboardEffects& effects) {
  for (auto& told : effects.told) send_up(options_.nodes + number, std::move(told));
  for (const auto& change : effects.published) {
    for (std::uint32_t shard = 0; shard < options_.shards; ++shard) {
      if (shard == 0) {
        apply_to_shard(number, {shard, change});
      } else {
        post(number, shard, ShardApply{shard, change});
      }
    }
  }
}

void Cluster::perform(std::uint32_t number, std::uint32_t shard_number, core::DispatcherEffects& effects) {
  for (const auto& granted : effects.granted) {
    const auto index = find_request(granted.token.value);
    ASSERT(index.has_value(), "a slot is granted to a request that has been answered");
    if (requests_[*index].state != RequestState::parked) violate("a slot is granted to a request that does not wait");
    forward(*index, granted.lease);
  }
  for (const auto& refused : effects.refused) {
    const auto index = find_request(refused.token.value);
    ASSERT(index.has_value(), "a request is refused that has been answered");
    if (requests_[*index].state != RequestState::parked) violate("a request is refused that does not wait");
    answer(*index, to_string(refused.refusal.reason));
  }
  const std::uint32_t main = options_.shards;
  const std::uint32_t link = options_.nodes + number;
  const auto tell = [&](DataPlaneMessage message) {
    if (shard_number == 0) {
      send_up(link, std::move(message));
    } else {
      post(number, main, ToControl{std::move(message)});
    }
  };
  for (auto& posted : effects.posted) post(number, posted.shard, std::move(posted.message));
  for (auto& load : effects.loads) tell(std::move(load));
  for (auto& suspected : effects.suspected) tell(std::move(suspected));
  if (effects.released) post(number, main, SlotsFreed{});
  Shard& shard = planes_[number].shards[shard_number];
  const auto next = shard.dispatcher->next_wakeup();
  if (!next || (shard.armed && *shard.armed <= *next)) return;
  shard.armed = std::max(*next, now_);
  events_.add(*shard.armed, EventKind::plane_timer, number, shard_number, planes_[number].life);
}

void Cluster::tick_plane(std::uint32_t number, std::uint32_t shard_number, Instant armed) {
  Shard& shard = planes_[number].shards[shard_number];
  if (shard.armed != armed) return;
  shard.armed.reset();
  core::DispatcherEffects& effects = effects_of_shard();
  shard.dispatcher->tick(now_, effects);
  perform(number, shard_number, effects);
}

void Cluster::post(std::uint32_t number, std::uint32_t box, Mail mail) {
  Plane& plane = planes_[number];
  Mailbox& mailbox = plane.mailboxes[box];
  mailbox.last = std::max(mailbox.last, now_ + Duration(static_cast<std::int64_t>(rng_.below(kMailDelayMax))));
  mailbox.mails.push_back(std::move(mail));
  events_.add(mailbox.last, EventKind::plane_mail, number, box, plane.life);
}

void Cluster::open_mail(std::uint32_t number, std::uint32_t box) {
  Plane& plane = planes_[number];
  Mail mail = std::move(plane.mailboxes[box].mails.front());
  plane.mailboxes[box].mails.pop_front();
  if (auto* message = std::get_if<core::ShardMessage>(&mail)) {
    core::DispatcherEffects& effects = effects_of_shard();
    plane.shards[box].dispatcher->receive(std::move(*message), now_, effects);
    perform(number, box, effects);
  } else if (auto* to_apply = std::get_if<ShardApply>(&mail)) {
    apply_to_shard(number, *to_apply);
  } else if (auto* to_control = std::get_if<ToControl>(&mail)) {
    send_up(options_.nodes + number, std::move(to_control->message));
  } else {
    core::SwitchboardEffects effects;
    if (auto* applied = std::get_if<ShardApplied>(&mail)) {
      plane.switchboard->shard_applied(applied->shard, applied->number, effects);
    } else {
      plane.switchboard->slots_released(effects);
    }
    perform(number, effects);
  }
}

}  // namespace dirigent::sim
