// SPDX-License-Identifier: MIT
//
// One thread of the load generator: makes its share of the calls when they are due, through one pool of connections for
// each endpoint, and measures what comes of them.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "bench/pool.h"
#include "bench/schedule.h"
#include "dirigent/bench/engine.h"

namespace dirigent::bench {

// What the reporting thread sees of a client while it runs.
struct Window {
  std::uint64_t sent = 0;  // since the start
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  Histogram recent;  // since it was last taken
};

// What all clients of a run share.
struct RunState {
  Instant begin{};
  WallTime begin_wall{};
  const std::atomic<bool>* stop = nullptr;
  unsigned connections = 0;                     // of all clients, at most
  std::atomic<std::uint64_t> requests_left{0};  // closed loop with a number of requests
  [[nodiscard]] bool is_stopped() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
};

class Client final : public CallOwner {
 public:
  // `share` of `shares`: which of the calls are this client's, and how many of the connections.
  Client(const Plan& plan, RunState& state, const std::vector<io::SocketAddress>& addresses, unsigned share,
         unsigned shares);

  // Until every call has ended. On the client's own thread.
  Status run();
  void completed(const Call& call, const Answer& answer) override;

  // Any thread: adds what came since the last time to `window`.
  void take_window(Window& window);

  [[nodiscard]] const Measurement& measurement() const { return *measurement_; }
  [[nodiscard]] std::uint64_t connections_opened() const;
  [[nodiscard]] std::uint64_t in_flight_max() const { return in_flight_max_; }

 private:
  void issue_due(Instant now);
  void issue_closed(Instant now);
  [[nodiscard]] bool may_issue_closed(Instant now);
  void submit(const Call& call);
  void publish();
  [[nodiscard]] Duration patience(Instant now) const;
  [[nodiscard]] bool is_finished(Instant now);
  void count_not_sent();

  const Plan& plan_;
  RunState& state_;
  const std::vector<io::SocketAddress>& addresses_;
  unsigned share_;
  unsigned shares_;
  std::optional<Poller> poller_;
  std::vector<std::unique_ptr<Pool>> pools_;  // by endpoint
  std::unique_ptr<Measurement> measurement_;

  std::optional<Schedule> schedule_;   // open loop
  std::optional<Call> next_;           // not yet due
  std::uint64_t idle_slots_ = 0;       // closed loop: calls to make now
  std::deque<Instant> resting_slots_;  // closed loop: after a failed connection, until then
  std::uint64_t closed_calls_ = 0;
  bool is_over_ = false;  // no more calls are made

  std::uint64_t in_flight_ = 0;
  std::uint64_t in_flight_max_ = 0;
  Window own_;  // published now and then
  Instant publish_at_{};
  Instant stopped_at_ = Instant::max();
  std::mutex mutex_;
  Window shared_;
};

}  // namespace dirigent::bench
