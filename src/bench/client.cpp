// SPDX-License-Identifier: MIT
#include "bench/client.h"

#include <algorithm>

#include "dirigent/io/loop.h"

namespace dirigent::bench {

namespace {

constexpr Duration kPublishEvery = 100ms;
constexpr Duration kStopGrace = 1s;  // for calls under way when the run is stopped
constexpr Duration kRestAfterFailure = 50ms;
// The longest wait of the epoll: a stop is noticed within it.
constexpr Duration kPatienceMax = 50ms;
// Calls made in one go before answers are looked at, when the generator lags behind its schedule.
constexpr int kIssuedAtOnce = 64;

// The part of `total` that falls to `share`: as equal as it can be.
unsigned part_of(unsigned total, unsigned share, unsigned shares) {
  return total / shares + (share < total % shares ? 1 : 0);
}

}  // namespace

Client::Client(const Plan& plan, RunState& state, const std::vector<io::SocketAddress>& addresses, unsigned share,
               unsigned shares)
    : plan_(plan),
      state_(state),
      addresses_(addresses),
      share_(share),
      shares_(shares),
      measurement_(std::make_unique<Measurement>(plan.targets.size(), plan.request.invitro, plan.keep_records)) {}

std::uint64_t Client::connections_opened() const {
  std::uint64_t sum = 0;
  for (const auto& pool : pools_) sum += pool->opened();
  return sum;
}

Status Client::run() {
  auto poller = Poller::open();
  if (!poller) return failure(poller.error());
  poller_.emplace(std::move(*poller));
  const unsigned connections = std::max(1u, part_of(state_.connections, share_, shares_));
  const auto endpoints = static_cast<unsigned>(addresses_.size());
  for (unsigned i = 0; i < endpoints; ++i) {
    const PoolContext context{plan_, *poller_, *this, addresses_[i], std::max(1u, part_of(connections, i, endpoints))};
    pools_.push_back(plan_.protocol == Protocol::h2c ? make_h2_pool(context) : make_http1_pool(context));
  }
  if (plan_.pace == Pace::open) {
    schedule_.emplace(plan_, state_.begin, share_, shares_);
  } else {
    idle_slots_ = plan_.protocol == Protocol::h2c ? std::uint64_t{connections} * plan_.streams : connections;
  }
  publish_at_ = state_.begin;
  for (;;) {
    const Instant now = io::Loop::now();
    if (plan_.pace == Pace::open) issue_due(now);
    else issue_closed(now);
    for (const auto& pool : pools_) {
      pool->expire(now);
      pool->flush();
    }
    if (now >= publish_at_) publish();
    if (is_finished(now)) break;
    poller_->wait(patience(io::Loop::now()));
  }
  publish();
  measurement_->not_sent += in_flight_;  // only when the run was stopped
  return {};
}

void Client::submit(const Call& call) {
  ++own_.sent;
  in_flight_max_ = std::max(in_flight_max_, ++in_flight_);
  pools_[plan_.targets[call.target].endpoint]->submit(call);
}

void Client::issue_due(Instant now) {
  if (is_over_) return;
  if (state_.is_stopped()) return;
  for (int i = 0; i < kIssuedAtOnce; ++i) {
    if (!next_) {
      Call call;
      if (!schedule_->next(call)) {
        is_over_ = true;
        return;
      }
      next_ = call;
    }
    if (next_->intended > now) return;
    submit(*next_);
    next_.reset();
  }
}

void Client::count_not_sent() {
  is_over_ = true;
  if (next_ && next_->is_measured) ++measurement_->not_sent;
  next_.reset();
  for (Call call; schedule_->next(call);) measurement_->not_sent += call.is_measured ? 1 : 0;
}

bool Client::may_issue_closed(Instant now) {
  if (state_.is_stopped()) return false;
  if (plan_.requests > 0 && now >= state_.begin + plan_.warm_up) {
    // A number of requests counts from the end of the warm-up on.
    auto left = state_.requests_left.load(std::memory_order_relaxed);
    while (left > 0 && !state_.requests_left.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) {
    }
    return left > 0;
  }
  return plan_.requests > 0 || now < state_.begin + plan_.warm_up + plan_.length;
}

void Client::issue_closed(Instant now) {
  if (now < state_.begin) return;
  while (!resting_slots_.empty() && resting_slots_.front() <= now) {
    resting_slots_.pop_front();
    ++idle_slots_;
  }
  while (idle_slots_ > 0 && !is_over_) {
    if (!may_issue_closed(now)) {
      is_over_ = true;
      return;
    }
    --idle_slots_;
    Call call;
    call.intended = now;
    call.run_time = plan_.run_time;
    call.target = static_cast<std::uint32_t>((closed_calls_ * shares_ + share_) % plan_.targets.size());
    call.minute = static_cast<std::uint32_t>((now - state_.begin) / 60s);
    call.ordinal = static_cast<std::uint32_t>(closed_calls_ * shares_ + share_);
    call.is_measured = now >= state_.begin + plan_.warm_up;
    ++closed_calls_;
    submit(call);
  }
}

void Client::completed(const Call& call, const Answer& answer) {
  --in_flight_;
  const std::uint64_t good_before = measurement_->succeeded;
  const WallTime intended_wall =
      state_.begin_wall + std::chrono::duration_cast<std::chrono::microseconds>(call.intended - state_.begin);
  // The time between two calls of a closed loop is the generator's own; a call starts when it is sent.
  if (plan_.pace == Pace::closed && call.sent != Instant{}) {
    Call started = call;
    started.intended = call.sent;
    measurement_->record(started, answer, intended_wall);
  } else {
    measurement_->record(call, answer, intended_wall);
  }
  const bool good =
      call.is_measured ? measurement_->succeeded > good_before : answer.fault == Fault::none && answer.status < 400;
  ++(good ? own_.succeeded : own_.failed);
  own_.recent.record(answer.end_at - call.intended);
  if (plan_.pace == Pace::open) return;
  if (answer.fault == Fault::connect_failed) resting_slots_.push_back(answer.end_at + kRestAfterFailure);
  else ++idle_slots_;
}

void Client::publish() {
  publish_at_ = io::Loop::now() + kPublishEvery;
  const std::lock_guard lock(mutex_);
  shared_.sent = own_.sent;
  shared_.succeeded = own_.succeeded;
  shared_.failed = own_.failed;
  shared_.recent.merge(own_.recent);
  own_.recent.clear();
}

void Client::take_window(Window& window) {
  const std::lock_guard lock(mutex_);
  window.sent += shared_.sent;
  window.succeeded += shared_.succeeded;
  window.failed += shared_.failed;
  window.recent.merge(shared_.recent);
  shared_.recent.clear();
}

Duration Client::patience(Instant now) const {
  if (plan_.pace == Pace::closed && idle_slots_ > 0 && !is_over_) return std::max(Duration::zero(), state_.begin - now);
  Instant until = std::min(now + kPatienceMax, publish_at_);
  if (next_) until = std::min(until, next_->intended);
  else if (plan_.pace == Pace::open && !is_over_) until = now;  // more calls are due than were made in one go
  if (!resting_slots_.empty()) until = std::min(until, resting_slots_.front());
  for (const auto& pool : pools_) {
    if (const auto expiry = pool->next_expiry()) until = std::min(until, *expiry);
  }
  return std::max(Duration::zero(), until - now);
}

bool Client::is_finished(Instant now) {
  if (state_.is_stopped()) {
    if (stopped_at_ == Instant::max()) stopped_at_ = now;
    if (!is_over_ && schedule_) count_not_sent();
    is_over_ = true;
    if (now >= stopped_at_ + kStopGrace) return true;
  }
  return is_over_ && in_flight_ == 0;
}

}  // namespace dirigent::bench
