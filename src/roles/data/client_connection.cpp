// SPDX-License-Identifier: MIT
#include "roles/data/client_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/assert.h"
#include "roles/data/problem.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {
constexpr Duration kAnswerTimeout = 10s;  // for an answer of our own to leave
constexpr Duration kLingerTimeout = 2s;   // for a client to notice that it should stop sending

std::string_view without_port(std::string_view address) { return address.substr(0, address.rfind(':')); }
}  // namespace

ClientConnection::ClientConnection(ProxyShard& shard, std::uint32_t index) : shard_(shard), index_(index) {
  timer_.owner = this;
  timer_.fire = &ClientConnection::on_timer;
}

// --- a connection -------------------------------------------------------------------------------------------------

void ClientConnection::begin(const SocketAddress& peer) {
  const std::string text = to_string(peer);
  const std::string_view host = without_port(text);
  peer_text_size_ = static_cast<std::uint8_t>(std::min(host.size(), peer_text_.size()));
  std::memcpy(peer_text_.data(), host.data(), peer_text_size_);
  peer_trusted_ = shard_.trusted_.contains(peer);
  requests_ = 0;
  half_closed_ = false;
  scanner_.reset();
  state_ = State::head;
  quiet_since_ = shard_.now();
  // The first event brings what there is to read together with the news of an end, which a recv now would not.
  set_deadline();
}

void ClientConnection::turn_away() {
  reset_request();
  state_ = State::head;
  arrived_ = shard_.now();
  const auto limit = shard_.options_.limits.connections_max;
  answer_problem(Reason::max_inflight, fmt::format("{} connections are open, limit {}", limit, limit), 1s);
}

void ClientConnection::on_ready() {
  shard_.read_clock();
  const bool client_is_gone = broken() || (peer_closed() && !half_closed_);
  switch (state_) {
    case State::closed: return;
    case State::head: read_heads(); return;
    case State::parked:
      if (client_is_gone) client_left();
      return;
    case State::connecting:
    case State::relaying:
      if (client_is_gone && (broken() || !tunnel_)) {
        client_left();
      } else {
        pump();
      }
      return;
    case State::answering: send_answer(); return;
    case State::lingering: discard_input(); return;
  }
}

void ClientConnection::on_timer(void* self, Instant now) { static_cast<ClientConnection*>(self)->on_deadline(now); }

void ClientConnection::set_deadline() {
  const DataLimits& limits = shard_.options_.limits;
  Instant deadline = arrived_ + limits_.timeout;
  switch (state_) {
    case State::closed: return;
    case State::head: {
      const bool in_head = requests_ == 0 || input_begin_ != input_end_;
      deadline = quiet_since_ + (in_head ? limits.head_timeout : limits.keep_alive_timeout);
      break;
    }
    case State::parked: break;
    case State::connecting: deadline = std::min(deadline, connect_deadline_); break;
    case State::relaying:
      if (!response_head_done_ && request_sent_ && limits_.first_byte_timeout > Duration::zero()) {
        deadline = std::min(deadline, sent_at_ + limits_.first_byte_timeout);
      }
      if (limits_.idle_timeout > Duration::zero()) deadline = std::min(deadline, last_activity_ + limits_.idle_timeout);
      if (!request_sent_ && !request_broken_ && !response_head_done_ && !to_sandbox_.pending()) {
        deadline = std::min(deadline, body_wait_since_ + limits.body_timeout);
      }
      break;
    case State::answering: deadline = quiet_since_ + kAnswerTimeout; break;
    case State::lingering: deadline = linger_until_; break;
  }
  shard_.wheel_.set(timer_, deadline);
}

void ClientConnection::on_deadline(Instant now) {
  const DataLimits& limits = shard_.options_.limits;
  const bool total_is_over = now >= arrived_ + limits_.timeout;
  switch (state_) {
    case State::closed: return;
    case State::head:
      if (input_begin_ == input_end_) {
        shut();
      } else {
        reset_request();
        arrived_ = quiet_since_;
        answer_problem(Reason::request_timeout,
                       fmt::format("the head of the request did not arrive within {}", format_duration(limits.head_timeout)));
      }
      return;
    case State::parked:
      shard_.dispatcher_.abandon(token_, now, shard_.effects_);
      answer_problem(Reason::queue_timeout,
                     fmt::format("no sandbox had room within the request's time limit of {}", format_duration(limits_.timeout)));
      return;
    case State::connecting:
      if (now >= connect_deadline_ && !total_is_over) {
        upstream_broke(ETIMEDOUT);
        return;
      }
      [[fallthrough]];
    case State::relaying: {
      Reason reason = Reason::none;
      std::string detail;
      if (total_is_over) {
        reason = Reason::max_duration;
        detail = fmt::format("the request took longer than its limit of {}", format_duration(limits_.timeout));
      } else if (!response_head_done_ && request_sent_ && limits_.first_byte_timeout > Duration::zero() &&
                 now >= sent_at_ + limits_.first_byte_timeout) {
        reason = Reason::response_start_timeout;
        detail = fmt::format("the function did not begin to answer within {}", format_duration(limits_.first_byte_timeout));
      } else if (limits_.idle_timeout > Duration::zero() && now >= last_activity_ + limits_.idle_timeout) {
        reason = Reason::idle_timeout;
        detail = fmt::format("no byte went either way for {}", format_duration(limits_.idle_timeout));
      } else if (!request_sent_ && !request_broken_ && !response_head_done_ && !to_sandbox_.pending() &&
                 now >= body_wait_since_ + limits.body_timeout) {
        reason = Reason::request_timeout;
        detail = fmt::format("no byte of the request's body arrived for {}", format_duration(limits.body_timeout));
      }
      if (reason == Reason::none) {
        set_deadline();
      } else if (response_head_done_) {
        cut(reason);
      } else {
        fail_exchange(reason, detail);
      }
      return;
    }
    case State::answering: abort(); return;
    case State::lingering: shut(); return;
  }
}

void ClientConnection::close_if_idle() {
  if (state_ == State::head && input_begin_ == input_end_) shut();
}

void ClientConnection::finish_now() {
  keep_alive_ = false;
  if (state_ == State::parked) {
    shard_.dispatcher_.abandon(token_, shard_.now(), shard_.effects_);
    answer_problem(Reason::draining, "this data plane stopped before a sandbox had room", 1s);
  } else if (state_ == State::connecting || state_ == State::relaying) {
    if (response_head_done_) {
      cut(Reason::draining);
    } else {
      fail_exchange(Reason::sandbox_lost, "this data plane stopped before the function answered");
    }
  }
  if (state_ != State::closed) shut();
}

// --- reading requests ---------------------------------------------------------------------------------------------

void ClientConnection::read_heads() {
  if (reading_heads_) return;
  reading_heads_ = true;
  while (state_ == State::head) {
    if (input_begin_ < input_end_) {
      const std::string_view bytes(input_->data() + input_begin_, input_end_ - input_begin_);
      const HeadScanner::Verdict verdict = scanner_.scan(bytes);
      if (verdict == HeadScanner::Verdict::bad) {
        refuse_head(scanner_.problem());
        continue;
      }
      const std::size_t head_max = shard_.request_limits_.head_bytes_max;
      const bool complete = verdict == HeadScanner::Verdict::complete;
      if (complete ? scanner_.head_size() > head_max : bytes.size() >= head_max) {
        refuse_head(fmt::format("the head of the request is larger than {} bytes", head_max));
        continue;
      }
      if (complete) {
        take_request(scanner_.head_size());
        continue;
      }
    }
    if (!fill_input()) break;
  }
  reading_heads_ = false;
  if (state_ != State::head) return;
  give_input_back();
  set_deadline();
}

// Reads once. False: there is nothing to read, or the connection is closed.
bool ClientConnection::fill_input() {
  if (!readable()) return false;
  if (input_ == nullptr) input_ = shard_.blocks_.take(BlockPool::kSmall);
  const std::size_t used = input_end_ - input_begin_;
  if (used == 0) {
    input_begin_ = input_end_ = 0;
  } else if (input_end_ == input_->capacity) {
    Block* target = input_begin_ == 0 ? shard_.blocks_.take(input_->capacity + 1) : input_;
    std::memmove(target->data(), input_->data() + input_begin_, used);
    if (target != input_) shard_.blocks_.give(input_);
    input_ = target;
    input_begin_ = 0;
    input_end_ = used;
  }
  const Transfer transfer = receive(input_->data() + input_end_, input_->capacity - input_end_);
  switch (transfer.io) {
    case Io::done:
      if (used == 0) quiet_since_ = shard_.now();
      input_end_ += transfer.bytes;
      return true;
    case Io::blocked: return false;
    case Io::ended:
    case Io::failed: shut(); return false;
  }
  return false;
}

void ClientConnection::give_input_back() {
  if (input_ == nullptr || input_begin_ != input_end_) return;
  shard_.blocks_.give(input_);
  input_ = nullptr;
  input_begin_ = input_end_ = 0;
}

void ClientConnection::reset_request() {
  lease_ = core::Lease{};
  has_lease_ = counted_ = false;
  keep_alive_ = is_http10_ = is_head_ = is_idempotent_ = wants_upgrade_ = false;
  expects_continue_ = sent_continue_ = chunked_to_sandbox_ = false;
  replayable_ = true;
  upstream_was_kept_ = upstream_reusable_ = request_sent_ = request_broken_ = false;
  response_head_done_ = tunnel_ = chunked_to_client_ = cold_ = false;
  interim_responses_ = 0;
  status_ = 0;
  metrics_ = shard_.metrics_.unrouted();
  revision_ = RevisionNumber{};
  function_.clear();
  call_id_size_ = 0;
  limits_ = RequestLimits{};
  first_body_ = {};
  request_body_.begin(Framing::none, 0);
  response_scanner_.reset();
  phases_ = {};
}

void ClientConnection::refuse_head(std::string_view detail) {
  reset_request();
  arrived_ = shard_.now();
  ++requests_;
  ++metrics_->started;
  // Where this request ends cannot be known, so nothing behind it can be read either.
  input_begin_ = input_end_;
  request_body_.begin(Framing::until_close, 0);
  answer_problem(Reason::bad_request, detail);
}

void ClientConnection::take_request(std::size_t head_size) {
  RequestHead& head = shard_.request_head_;
  const char* wrong = parse_request_head({input_->data() + input_begin_, head_size}, shard_.request_limits_, head);
  if (wrong != nullptr) {
    refuse_head(wrong);
    return;
  }
  reset_request();
  arrived_ = shard_.read_clock();
  ++requests_;
  half_closed_ = peer_closed();
  is_http10_ = head.minor_version == 0;
  is_head_ = head.is_head;
  is_idempotent_ = head.is_idempotent;
  expects_continue_ = head.expect_continue;
  wants_upgrade_ = !is_http10_ && head.connection_upgrade && !head.upgrade.empty() && head.framing == Framing::none &&
                   !equals_ignoring_case(head.upgrade, "h2c");
  const std::uint32_t requests_max = shard_.options_.limits.requests_per_connection_max;
  keep_alive_ = (is_http10_ ? head.connection_keep_alive : !head.connection_close) && !shard_.draining_ && !half_closed_ &&
                (requests_max == 0 || requests_ < requests_max);
  chunked_to_sandbox_ = head.framing == Framing::chunked;
  for (const HeaderField& field : head) {
    if (field.kind != HeaderKind::x_call_id || !is_call_id(field.value)) continue;
    std::memcpy(call_id_.data(), field.value.data(), field.value.size());
    call_id_size_ = static_cast<std::uint8_t>(field.value.size());
  }

  input_begin_ += head_size;
  scanner_.reset();
  request_body_.begin(head.framing, head.content_length);
  request_body_.withhold_listed(head);
  char* body = input_->data() + input_begin_;
  const BodyDecoder::Step step = request_body_.decode(body, input_end_ - input_begin_);
  if (request_body_.problem() != nullptr) {
    refuse_head(request_body_.problem());
    return;
  }
  first_body_ = {body, step.produced};
  input_begin_ += step.consumed;

  const NamedPath path = name_by_path(head.target);
  const core::RoutedFunction* function = path.kind == PathKind::reserved ? nullptr : find_function(path);
  if (function != nullptr) {
    write_sandbox_head(path, head_size);
    admit(*function);
    return;
  }
  ++metrics_->started;
  if (path.kind == PathKind::health) {
    answer_own(200, "text/plain", "ok\n");
  } else if (path.kind == PathKind::reserved) {
    answer_problem(Reason::not_found, "this path belongs to the platform and is not served on this port");
  } else if (!shard_.shared_.routes_complete.load(std::memory_order_relaxed)) {
    answer_problem(Reason::no_capacity, "this data plane has not heard from a control plane yet; try again", 1s);
  } else {
    const std::string_view name = path.kind == PathKind::by_path ? path.name : head.authority;
    answer_problem(Reason::not_found, fmt::format("function \"{}\" not found (dirigent ctl list shows what there is)", name));
  }
}

const core::RoutedFunction* ClientConnection::find_function(const NamedPath& path) const {
  if (path.kind == PathKind::by_path) return shard_.dispatcher_.find(canonical_name(path.name));
  const HostNames names(shard_.request_head_.authority);
  for (const std::string_view name : names) {
    if (const core::RoutedFunction* function = shard_.dispatcher_.find(name)) return function;
  }
  return nullptr;
}

// The head for the sandbox is written when the request arrives: it depends on no sandbox, and a parked request then needs
// neither the client's head nor the block it came in.
void ClientConnection::write_sandbox_head(const NamedPath& path, std::size_t head_size) {
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
        if (!peer_trusted_) continue;
        break;
      case HeaderKind::host: has_host = true; break;
      default: break;
    }
    if (!head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  if (!has_host) writer.add_header("Host", path.kind == PathKind::by_path ? path.name : std::string_view("dirigent"));
  write_forwarded(writer);
  if (call_id_size_ == 0) {
    write_ulid(call_id_.data(), WallTime(std::chrono::microseconds(shard_.wall_ns() / 1000)), shard_.rng_);
    call_id_size_ = kUlidSize;
  }
  writer.add_header("X-Call-Id", {call_id_.data(), call_id_size_});
  writer.add("X-Start-Time: ").add_number(shard_.wall_ns()).add("\r\n");
  if (head.te_trailers) writer.add("TE: trailers\r\n");
  if (chunked_to_sandbox_) writer.add("Transfer-Encoding: chunked\r\n");
  if (wants_upgrade_) writer.add("Connection: upgrade\r\n").add_header("Upgrade", head.upgrade);
  writer.add("\r\n");
  sandbox_head_size_ = writer.size();
}

// X-Forwarded-*: what a trusted peer said is kept and appended to, what anybody else said never reaches the function.
void ClientConnection::write_forwarded(TextWriter& writer) {
  const RequestHead& head = shard_.request_head_;
  std::string_view proto = "http";
  std::string_view host = head.authority;
  writer.add("X-Forwarded-For: ");
  if (peer_trusted_) {
    for (const HeaderField& field : head) {
      if (field.kind == HeaderKind::x_forwarded_for && !field.value.empty()) writer.add(field.value).add(", ");
      if (field.kind == HeaderKind::x_forwarded_proto) proto = field.value;
      if (field.kind == HeaderKind::x_forwarded_host) host = field.value;
    }
  }
  std::string_view peer(peer_text_.data(), peer_text_size_);
  if (!peer.empty() && peer.front() == '[') peer = peer.substr(1, peer.size() - 2);
  writer.add(peer).add("\r\n");
  writer.add_header("X-Forwarded-Proto", proto);
  if (!host.empty()) writer.add_header("X-Forwarded-Host", host);
}

void ClientConnection::admit(const core::RoutedFunction& function) {
  metrics_ = shard_.metrics_.of(function);
  ++metrics_->started;
  limits_ = function.route.limits;
  revision_ = function.route.revision;
  function_ = function.route.function.value;
  token_ = shard_.new_token(*this);
  follow(shard_.dispatcher_.arrive(function, token_, arrived_, shard_.effects_));
}

void ClientConnection::follow(const core::Admission& admission) {
  switch (admission.kind) {
    case core::Admission::Kind::forward: granted(admission.lease); return;
    case core::Admission::Kind::refused: refused(admission.refusal); return;
    case core::Admission::Kind::parked:
      state_ = State::parked;
      // The block stays while payload that came with the head is in it.
      if (first_body_.empty()) give_input_back();
      set_deadline();
      return;
  }
}

void ClientConnection::granted(const core::Lease& lease) {
  lease_ = lease;
  has_lease_ = true;
  start_exchange();
}

void ClientConnection::refused(const core::Refusal& refusal) {
  answer_problem(refusal.reason, refusal.detail, refusal.retry_after);
}

// --- answers of our own -------------------------------------------------------------------------------------------

void ClientConnection::answer_own(int status, std::string_view content_type, std::string_view body) {
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(512 + body.size());
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(status)).add(" OK\r\n");
  writer.add_header("Date", shard_.date()).add_header("Content-Type", content_type);
  writer.add("Content-Length: ").add_number(body.size()).add("\r\n");
  if (!request_body_.done()) keep_alive_ = false;
  if (!keep_alive_) writer.add("Connection: close\r\n");
  if (keep_alive_ && is_http10_) writer.add("Connection: keep-alive\r\n");
  writer.add("\r\n");
  if (!is_head_) writer.add(body);
  to_client_.clear();
  to_client_.add(client_head_->data(), writer.size());
  count_request(status, Reason::none);
  send_answer();
}

void ClientConnection::answer_problem(Reason reason, std::string_view detail, Duration retry_after) {
  ASSERT(!has_lease_ && upstream_ == nullptr);
  if (traits(reason).retry_after && retry_after <= Duration::zero()) retry_after = 1s;
  if (call_id_size_ == 0) {
    write_ulid(call_id_.data(), WallTime(std::chrono::microseconds(shard_.wall_ns() / 1000)), shard_.rng_);
    call_id_size_ = kUlidSize;
  }
  Problem problem;
  problem.reason = reason;
  problem.function = function_;
  problem.revision = revision_;
  problem.call_id = {call_id_.data(), call_id_size_};
  problem.detail = detail;
  problem.retry_after = retry_after;
  write_problem_body(problem, shard_.text_);
  if (!request_body_.done() || shard_.draining_) keep_alive_ = false;

  const ReasonTraits& reason_traits = traits(reason);
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(1024 + shard_.text_.size());
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(reason_traits.http_status)).add(" ");
  writer.add(reason_phrase(reason_traits.http_status)).add("\r\n");
  writer.add_header("Date", shard_.date()).add("Content-Type: application/problem+json\r\nContent-Length: ");
  writer.add_number(shard_.text_.size()).add("\r\n");
  writer.add_header("X-Dirigent-Reason", reason_traits.name).add_header("X-Call-Id", problem.call_id);
  if (reason_traits.retry_after) writer.add("Retry-After: ").add_number(retry_after_seconds(retry_after)).add("\r\n");
  const Duration took = shard_.now() - arrived_;
  writer.add("X-Duration-Seconds: ").add_decimal(static_cast<std::uint64_t>(std::max<std::int64_t>(0, took.count() / 1000)), 6);
  writer.add("\r\n");
  if (shard_.options_.expose_timing) {
    const Duration queue = lease_.sandbox != nullptr ? lease_.granted - arrived_ : took;
    writer.add("Server-Timing: cold;desc=\"no\", queue;dur=").add_milliseconds(queue);
    writer.add(", proxy;dur=").add_milliseconds(took - queue).add("\r\n");
  }
  if (!keep_alive_) writer.add("Connection: close\r\n");
  if (keep_alive_ && is_http10_) writer.add("Connection: keep-alive\r\n");
  writer.add("\r\n");
  if (!is_head_) writer.add(shard_.text_);
  to_client_.clear();
  to_client_.add(client_head_->data(), writer.size());
  count_request(reason_traits.http_status, reason);
  send_answer();
}

void ClientConnection::send_answer() {
  if (state_ != State::answering) {
    state_ = State::answering;
    quiet_since_ = shard_.now();
  }
  const Transfer transfer = send(to_client_);
  if (transfer.io == Io::blocked) {
    set_deadline();
  } else if (transfer.io == Io::failed) {
    shut();
  } else {
    next_request();
  }
}

void ClientConnection::count_request(int status, Reason reason) {
  if (counted_) return;
  counted_ = true;
  metrics_->count_answer(status, reason);
  if (lease_.sandbox == nullptr) return;
  (cold_ ? metrics_->cold : metrics_->warm).record(shard_.now() - arrived_);
  if (lease_.granted != arrived_) metrics_->queue_wait.record(lease_.granted - arrived_);
  if (!response_head_done_) return;
  for (std::size_t phase = 0; phase < kPhases; ++phase) {
    const bool of_every_request = phase == static_cast<std::size_t>(Phase::queue) || phase >= static_cast<std::size_t>(Phase::proxy);
    if (cold_ || of_every_request) metrics_->phases[phase].record(phases_[phase]);
  }
}

// --- the end of a request and of a connection ---------------------------------------------------------------------

void ClientConnection::next_request() {
  shard_.blocks_.give(client_head_);
  shard_.blocks_.give(sandbox_head_);
  shard_.blocks_.give(response_);
  client_head_ = sandbox_head_ = response_ = nullptr;
  response_begin_ = response_end_ = 0;
  if (!keep_alive_ || shard_.draining_) {
    // Closing with unread bytes would reset the connection, and the client might lose the answer.
    if (request_body_.done() && !readable()) {
      shut();
    } else {
      linger();
    }
    return;
  }
  state_ = State::head;
  quiet_since_ = shard_.now();
  if (!reading_heads_) read_heads();
}

void ClientConnection::linger() {
  ::shutdown(fd(), SHUT_WR);
  state_ = State::lingering;
  linger_until_ = shard_.now() + kLingerTimeout;
  discard_input();
}

void ClientConnection::discard_input() {
  if (input_ == nullptr) input_ = shard_.blocks_.take(BlockPool::kSmall);
  // Bounded per event, so that a client that floods us does not hold up the others.
  for (int reads = 0; readable() && reads < 64; ++reads) {
    const Transfer transfer = receive(input_->data(), input_->capacity);
    if (transfer.io == Io::ended || transfer.io == Io::failed) {
      shut();
      return;
    }
    if (transfer.io == Io::blocked) break;
  }
  if (readable()) {
    shut();
    return;
  }
  set_deadline();
}

void ClientConnection::shut() {
  release_all();
  shard_.poller_->close(*this);
  shard_.connection_closed(*this);
}

void ClientConnection::abort() {
  release_all();
  shard_.poller_->reset(*this);
  shard_.connection_closed(*this);
}

void ClientConnection::release_all() {
  ASSERT(!has_lease_ && upstream_ == nullptr && state_ != State::parked);
  shard_.wheel_.clear(timer_);
  for (Block** block : {&input_, &sandbox_head_, &client_head_, &response_}) {
    shard_.blocks_.give(*block);
    *block = nullptr;
  }
  input_begin_ = input_end_ = response_begin_ = response_end_ = 0;
  to_client_.clear();
  to_sandbox_.clear();
  state_ = State::closed;
}

}  // namespace dirigent::roles
