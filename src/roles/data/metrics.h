// SPDX-License-Identifier: MIT
//
// What a shard counts. Plain numbers of one thread; a scrape copies them and adds the shards up on the main loop.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/core/dispatcher.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/reason.h"

namespace dirigent::roles {

// A Prometheus histogram with fixed bounds from 100 us to 300 s.
struct LatencyHistogram {
  static constexpr std::array<std::int64_t, 17> kBoundsUs{100,     250,     500,       1'000,     2'500,      5'000,
                                                          10'000,  25'000,  50'000,    100'000,   250'000,    500'000,
                                                          1'000'000, 2'500'000, 10'000'000, 60'000'000, 300'000'000};
  std::array<std::uint64_t, kBoundsUs.size() + 1> counts{};
  std::uint64_t count = 0;
  std::int64_t sum_ns = 0;

  void record(Duration duration);
  void merge(const LatencyHistogram& other);
};

// The phases of Server-Timing, in its order.
enum class Phase : std::uint8_t { queue, schedule, create, network, start, probe, route, proxy, fn };
inline constexpr std::size_t kPhases = 9;
std::string_view to_string(Phase phase);

struct RevisionMetrics {
  FunctionName function;
  RevisionNumber revision;
  std::uint64_t started = 0;
  std::vector<std::pair<std::pair<std::uint16_t, Reason>, std::uint64_t>> answered;  // (status, reason) -> requests
  LatencyHistogram warm;
  LatencyHistogram cold;
  LatencyHistogram queue_wait;
  std::array<LatencyHistogram, kPhases> phases;

  void count_answer(int status, Reason reason);
  void merge(const RevisionMetrics& other);
};

// The shard's registry. The names a client may invent never make a series: unknown functions count under "".
class ShardMetrics {
 public:
  ShardMetrics();
  // A function's numbers; beyond kRevisionsMax of them, those of "_other". The pointer stays valid.
  RevisionMetrics* of(const core::RoutedFunction& function);
  RevisionMetrics* unrouted() { return &unrouted_; }
  // The function's route changed or is gone: the next request looks its numbers up by name.
  void forget(const core::FunctionShared* function) { by_function_.erase(function); }

  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;
  std::uint64_t upstream_connects = 0;
  std::uint64_t upstream_reuses = 0;
  std::uint64_t upstream_retries = 0;
  std::uint64_t http2_connections = 0;  // begun
  std::uint64_t http2_floods = 0;       // ended because of frames that floods are made of

  [[nodiscard]] std::vector<RevisionMetrics> copy() const;

 private:
  static constexpr std::size_t kRevisionsMax = 4096;  // 4096 x 2.2 KiB = 9 MiB a shard at most
  std::unordered_map<const core::FunctionShared*, RevisionMetrics*> by_function_;
  std::map<std::pair<FunctionName, RevisionNumber>, std::unique_ptr<RevisionMetrics>> by_name_;
  RevisionMetrics unrouted_;
  RevisionMetrics other_;
};

struct MetricsSnapshot {
  std::vector<RevisionMetrics> revisions;
  std::vector<core::Dispatcher::FunctionStats> loads;
  std::uint64_t connections = 0;
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;
  std::uint64_t upstream_connects = 0;
  std::uint64_t upstream_reuses = 0;
  std::uint64_t upstream_retries = 0;
  std::uint64_t http2_connections = 0;
  std::uint64_t http2_floods = 0;
  std::uint64_t memory_in_use = 0;  // of all shards: the same in every snapshot
};

// Prometheus text. Series of the `functions_max` busiest functions are kept apart, the rest is fn="_other".
std::string render_metrics(std::vector<MetricsSnapshot> shards, std::size_t functions_max, std::size_t sandboxes,
                           std::string_view version);

}  // namespace dirigent::roles
