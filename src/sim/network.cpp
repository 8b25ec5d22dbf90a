// SPDX-License-Identifier: MIT
//
// Links as the rpc floor makes them: one ordered connection between a client and the control plane, set up anew with a
// hello when it is lost. Each end notices a loss in its own time, so the control plane may hear a new hello before it has
// missed the old connection, and messages of the old one may still come.
#include "dirigent/base/assert.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {
constexpr Duration kHeartbeatInterval = 1s;
constexpr Duration kRetryDelayMin = 50ms;
constexpr Duration kRetryDelayMax = 2s;
}  // namespace

Duration Cluster::delay_of(const Link& link) {
  Duration delay = options_.network_delay.draw(rng_);
  if (now_ < link.slow_until) delay += link.slowness;
  return std::max(delay, link.blocked_until - now_);
}

void Cluster::connect_later(std::uint32_t number) {
  Link& link = links_[number];
  Duration delay = kRetryDelayMin;
  for (std::uint32_t i = 0; i < link.tries && delay < kRetryDelayMax; ++i) delay *= 2;
  ++link.tries;
  delay = std::min(delay, kRetryDelayMax);
  // Jittered: from half to all of it.
  add(delay / 2 + Duration(static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(delay.count()) / 2 + 1))), EventKind::connect, number, 0, link.life);
}

void Cluster::connect(std::uint32_t number, std::uint32_t life) {
  Link& link = links_[number];
  if (!link.is_alive || link.life != life || link.connection != kNone) return;
  const std::optional<std::uint32_t> control = choose_control();
  if (!control || now_ < link.blocked_until) {
    connect_later(number);
    return;
  }
  link.connection = static_cast<std::uint32_t>(connections_.size());
  connections_.emplace_back();
  connections_.back().link = number;
  connections_.back().control = *control;
  if (is_worker(number)) {
    send_up(number, hello_of(number));
  } else {
    DataPlaneHello hello;
    hello.id = plane_id(number - options_.nodes);
    hello.shares = planes_[number - options_.nodes].switchboard->begin_session();
    send_up(number, hello);
  }
}

void Cluster::send_up(std::uint32_t number, UpMessage message) {
  Link& link = links_[number];
  if (link.connection == kNone) return;  // the next hello says everything
  Connection& connection = connections_[link.connection];
  if (connection.is_cut) return;
  connection.last_up = std::max(connection.last_up, now_ + delay_of(link));
  connection.up.push_back(std::move(message));
  events_.add(connection.last_up, EventKind::message_up, link.connection);
}

void Cluster::send_down(SessionId session, DownMessage message) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  Connection& connection = connections_[found->second];
  if (!connection.server_open || connection.is_cut) return;
  connection.last_down = std::max(connection.last_down, now_ + delay_of(links_[connection.link]));
  connection.down.push_back(std::move(message));
  events_.add(connection.last_down, EventKind::message_down, found->second);
}

void Cluster::deliver_up(std::uint32_t number) {
  Connection& connection = connections_[number];
  if (connection.up.empty()) return;  // lost on the way
  if (now_ < links_[connection.link].blocked_until) {
    events_.add(links_[connection.link].blocked_until, EventKind::message_up, number);
    return;
  }
  if (const Instant later = paused_until(connection.control); later > now_) {
    events_.add(later, EventKind::message_up, number);
    return;
  }
  UpMessage message = std::move(connection.up.front());
  connection.up.pop_front();
  const bool is_hello = message.index() <= 1;
  if (!controls_[connection.control].conductor || (!is_hello && !connection.server_open)) {
    if (is_hello) add(delay_of(links_[connection.link]), EventKind::client_lost, number);
    return;
  }
  hear(number, std::move(message));
}

void Cluster::deliver_down(std::uint32_t number) {
  Connection& connection = connections_[number];
  if (connection.down.empty()) return;
  Link& link = links_[connection.link];
  if (now_ < link.blocked_until) {
    events_.add(link.blocked_until, EventKind::message_down, number);
    return;
  }
  DownMessage message = std::move(connection.down.front());
  connection.down.pop_front();
  if (!connection.client_open) return;
  const std::uint32_t client = is_worker(connection.link) ? connection.link : connection.link - options_.nodes;
  if (std::get_if<Joined>(&message) != nullptr) {
    link.tries = 0;
    if (!is_worker(connection.link)) {
      Plane& plane = planes_[client];
      for (std::uint32_t shard = 0; shard < plane.shards.size(); ++shard) {
        plane.shards[shard].dispatcher->report_all(now_);
        perform(client, shard, effects_of_shard());
      }
    }
  } else if (auto* order_message = std::get_if<WorkerOrder>(&message)) {
    order(client, *order_message);
  } else {
    apply(client, std::move(std::get<RouteUpdate>(std::get<DataPlaneOrder>(message))));
  }
}

void Cluster::client_lost(std::uint32_t number) {
  Connection& connection = connections_[number];
  if (!connection.client_open) return;
  connection.client_open = false;
  connection.down.clear();
  // Closing tells the other end, unless nothing passes.
  if (connection.server_open && !connection.is_cut) {
    connection.last_up = std::max(connection.last_up, now_ + delay_of(links_[connection.link]));
    events_.add(connection.last_up, EventKind::server_lost, number);
  }
  Link& link = links_[connection.link];
  if (link.connection != number) return;
  link.connection = kNone;
  if (link.is_alive) connect_later(connection.link);
}

void Cluster::server_lost(std::uint32_t number) {
  Connection& connection = connections_[number];
  if (!connection.server_open) return;
  connection.server_open = false;
  connection.up.clear();
  if (connection.client_open && !connection.is_cut) {
    connection.last_down = std::max(connection.last_down, now_ + delay_of(links_[connection.link]));
    events_.add(connection.last_down, EventKind::client_lost, number);
  }
  lose(number);
}

// The client's process is gone: its messages on the way arrive, then the end of its connection.
void Cluster::client_died(std::uint32_t number) {
  Link& link = links_[number];
  link.is_alive = false;
  if (link.connection == kNone) return;
  Connection& connection = connections_[link.connection];
  connection.client_open = false;
  connection.down.clear();
  if (!connection.is_cut) {
    connection.last_up = std::max(connection.last_up, now_ + delay_of(link));
    events_.add(connection.last_up, EventKind::server_lost, link.connection);
  }
  link.connection = kNone;
}

void Cluster::cut(std::uint32_t number, Duration client_notices, Duration server_notices) {
  Link& link = links_[number];
  if (link.connection == kNone) return;
  Connection& connection = connections_[link.connection];
  if (connection.is_cut) return;
  connection.is_cut = true;
  // What is on the way arrives or not, each direction for itself.
  if (rng_.below(2) == 0) connection.up.clear();
  if (rng_.below(2) == 0) connection.down.clear();
  add(client_notices, EventKind::client_lost, link.connection);
  add(server_notices, EventKind::server_lost, link.connection);
}

void Cluster::heartbeat(std::uint32_t number, std::uint32_t life) {
  const Link& link = links_[number];
  if (!link.is_alive || link.life != life) return;
  if (is_worker(number)) {
    NodeHeartbeat beat;
    beat.usage.sandboxes = static_cast<std::uint32_t>(workers_[number].keeper->size());
    send_up(number, WorkerMessage(beat));
  } else {
    DataPlaneHeartbeat beat;
    beat.requests_in_flight = static_cast<std::uint32_t>(planes_[number - options_.nodes].requests.size());
    send_up(number, DataPlaneMessage(beat));
  }
  add(kHeartbeatInterval, EventKind::heartbeat, number, 0, life);
}

}  // namespace dirigent::sim
