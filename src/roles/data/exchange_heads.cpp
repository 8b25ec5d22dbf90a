// SPDX-License-Identifier: MIT
//
// What an Exchange writes into heads: the request's for the sandbox, the answer's for the client.
#include <algorithm>

#include "roles/data/exchange.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {
constexpr int kInterimMax = 8;  // interim responses that are passed on
}  // namespace

// --- towards the sandbox ------------------------------------------------------------------------------------------

// The head for the sandbox is written when the request arrives: it depends on no sandbox, and a parked request then
// needs neither the client's head nor the block it came in.
void Exchange::write_sandbox_head(const NamedPath& path, const ClientPeer& peer, std::size_t head_size) {
  const RequestHead& head = shard_.request_head_;
  sandbox_head_ = shard_.blocks_.take(head_size + head.authority.size() + 768);
  TextWriter writer(sandbox_head_->data(), sandbox_head_->capacity);
  writer.add(head.method).add(" ");
  if (path.kind != PathKind::by_path) {
    writer.add(head.target);
  } else {
    if (path.rest.empty() || path.rest.front() != '/') writer.add("/");
    writer.add(path.rest);
  }
  writer.add(" HTTP/1.1\r\n");
  bool has_host = false;
  for (const HeaderField& field : head) {
    switch (field.kind) {
      case HeaderKind::x_dirigent: case HeaderKind::x_call_id: case HeaderKind::x_start_time:
      case HeaderKind::x_forwarded_for: case HeaderKind::x_forwarded_proto: case HeaderKind::x_forwarded_host:
      case HeaderKind::expect:
        continue;
      case HeaderKind::forwarded: case HeaderKind::x_real_ip:
        if (!peer.trusted) continue;
        break;
      case HeaderKind::host: has_host = true; break;
      default: break;
    }
    if (!head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  if (!has_host) writer.add_header("Host", path.kind == PathKind::by_path ? path.name : std::string_view("dirigent"));
  write_forwarded(writer, peer);
  ensure_call_id();
  writer.add_header("X-Call-Id", {call_id_.data(), call_id_size_});
  writer.add("X-Start-Time: ").add_number(shard_.wall_ns()).add("\r\n");
  if (head.te_trailers) writer.add("TE: trailers\r\n");
  if (chunked_to_sandbox_) writer.add("Transfer-Encoding: chunked\r\n");
  if (wants_upgrade_) writer.add("Connection: upgrade\r\n").add_header("Upgrade", head.upgrade);
  writer.add("\r\n");
  sandbox_head_size_ = writer.size();
}

// X-Forwarded-*: what a trusted peer said is kept and appended to, what anybody else said never reaches the function.
void Exchange::write_forwarded(TextWriter& writer, const ClientPeer& peer) {
  const RequestHead& head = shard_.request_head_;
  std::string_view proto = "http";
  std::string_view host = head.authority;
  writer.add("X-Forwarded-For: ");
  if (peer.trusted) {
    for (const HeaderField& field : head) {
      if (field.kind == HeaderKind::x_forwarded_for && !field.value.empty()) writer.add(field.value).add(", ");
      if (field.kind == HeaderKind::x_forwarded_proto) proto = field.value;
      if (field.kind == HeaderKind::x_forwarded_host) host = field.value;
    }
  }
  std::string_view address = peer.address();
  if (!address.empty() && address.front() == '[') address = address.substr(1, address.size() - 2);
  writer.add(address).add("\r\n");
  writer.add_header("X-Forwarded-Proto", proto);
  if (!host.empty()) writer.add_header("X-Forwarded-Host", host);
}

// --- towards the client -------------------------------------------------------------------------------------------

// 100 and 103 tell the client something; the others, and more than a few, are noise.
void Exchange::relay_interim(const ResponseHead& head) {
  const bool is_wanted = head.status == 103 || (head.status == 100 && !sent_continue_);
  if (!is_wanted || front_->is_http10() || interim_responses_ > kInterimMax) return;
  std::size_t size = 64 + head.reason.size();
  for (const HeaderField& field : head) size += field.name.size() + field.value.size() + 4;
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(size);
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(head.status)).add(" ").add(head.reason).add("\r\n");
  for (const HeaderField& field : head) {
    const bool is_ours = field.kind == HeaderKind::x_dirigent || field.kind == HeaderKind::content_length ||
                         field.kind == HeaderKind::x_call_id || field.kind == HeaderKind::x_served_by ||
                         field.kind == HeaderKind::x_duration_seconds;
    if (!is_ours && !head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  writer.add("\r\n");
  front_->send_interim(client_head_->data(), writer.size());
}

void Exchange::write_client_head(const ResponseHead& head) {
  std::size_t size = 1536 + ExchangeFront::kHeadRoom + head.upgrade.size() + head.reason.size();
  for (const HeaderField& field : head) size += field.name.size() + field.value.size() + 4;
  const RoutedSandbox& sandbox = lease_.sandbox->sandbox;
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(size + sandbox.node.value.size());
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(head.status)).add(" ").add(head.reason).add("\r\n");
  bool has_date = false;
  for (const HeaderField& field : head) {
    switch (field.kind) {
      case HeaderKind::content_length: case HeaderKind::x_dirigent: case HeaderKind::x_call_id:
      case HeaderKind::x_duration_seconds: case HeaderKind::x_served_by:
        continue;
      case HeaderKind::date: has_date = true; break;
      default: break;
    }
    if (!head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  if (!has_date) writer.add_header("Date", shard_.date());

  writer.add_header("X-Call-Id", {call_id_.data(), call_id_size_});
  writer.add("X-Duration-Seconds: ");
  writer.add_decimal(static_cast<std::uint64_t>(std::max<std::int64_t>(0, (shard_.now() - arrived_).count() / 1000)),
                     6);
  writer.add("\r\n");
  if (shard_.options_.expose_timing) {
    char id[16];
    std::uint64_t rest = sandbox.id.value;
    for (std::size_t i = 16; i-- > 0; rest >>= 4) id[i] = "0123456789abcdef"[rest & 15];
    writer.add("X-Served-By: ").add({id, sizeof id}).add("@").add(sandbox.node.value).add("\r\n");
    write_timing(writer);
  }

  AnswerFraming framing;
  framing.status = head.status;
  framing.framing = head.framing;
  framing.has_content_length = head.has_content_length && head.status >= 200 && head.status != 204;
  framing.content_length = head.content_length;
  framing.upgrade = head.upgrade;
  framing.complete = response_done_ && leg_->body_trailers().empty();
  front_->send_head(client_head_->data(), writer, framing);
}

void Exchange::write_timing(TextWriter& writer) {
  writer.add("Server-Timing: cold;desc=\"")
      .add(cold_ ? std::string_view(lease_.sandbox->sandbox.node.value) : "no")
      .add("\"");
  for (std::size_t phase = 0; phase < kPhases; ++phase) {
    const bool of_a_start =
        phase > static_cast<std::size_t>(Phase::queue) && phase < static_cast<std::size_t>(Phase::proxy);
    if (of_a_start && !cold_) continue;
    writer.add(", ").add(to_string(static_cast<Phase>(phase))).add(";dur=").add_milliseconds(phases_[phase]);
  }
  writer.add("\r\n");
}

// What happened between the request's arrival and the response's head, without gap or overlap:
//   arrived .. routed: the steps of the start, and `route` for the rest;  routed .. granted: `queue`;
//   granted .. head: `fn` from the last byte sent to the head, `proxy` for the rest.
// A request that came while the sandbox was being started has seen only the later part of the steps.
void Exchange::compute_phases(Instant head_at) {
  const auto set = [this](Phase phase, Duration duration) { phases_[static_cast<std::size_t>(phase)] = duration; };
  const Instant sent = request_sent_ ? sent_at_ : last_activity_;
  const Duration fn = std::max(Duration::zero(), head_at - sent);
  set(Phase::fn, fn);
  set(Phase::proxy, std::max(Duration::zero(), head_at - lease_.granted - fn));
  if (!cold_) {
    set(Phase::queue, lease_.granted - arrived_);
    return;
  }
  set(Phase::queue, lease_.granted - lease_.sandbox->routed_at);
  Duration left = lease_.sandbox->routed_at - arrived_;
  const StartPhases& start = lease_.sandbox->sandbox.phases;
  const auto take = [&](Phase phase, Duration duration) {
    const Duration seen = std::clamp(duration, Duration::zero(), left);
    left -= seen;
    set(phase, seen);
  };
  take(Phase::probe, start.probe);
  take(Phase::start, start.start);
  take(Phase::network, start.network);
  take(Phase::create, start.create);
  take(Phase::schedule, start.schedule);
  set(Phase::route, left);
}

}  // namespace dirigent::roles
