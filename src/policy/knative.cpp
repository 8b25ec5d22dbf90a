// SPDX-License-Identifier: MIT
#include "policy/knative.h"

#include <algorithm>
#include <cmath>

#include "policy/families.h"

namespace dirigent::policy {

namespace {

constexpr Duration kBucket = 1s;

// A load that was not zero and of which nothing is heard for this long is over: its data plane is gone. Data planes
// report every second, so ten reports were lost.
constexpr Duration kSilenceMax = 10s;

Duration panic_window_of(const ScalingSettings& settings) {
  return panic_window(settings.stable_window, settings.panic_window_percent);
}

}  // namespace

// --- LoadWindows --------------------------------------------------------------------------------------------------

LoadWindows::LoadWindows(const ScalingSettings& settings)
    : metric_(settings.metric),
      intake_(kBucket),
      stable_(settings.stable_window, kBucket, settings.aggregation),
      panic_(panic_window_of(settings), kBucket, settings.aggregation),
      peak_(panic_window_of(settings), kBucket) {}

void LoadWindows::record(Instant now, double value) {
  stable_.record(now, value);
  panic_.record(now, value);
}

void LoadWindows::observe(Instant now, const LoadSample& sample) {
  if (const auto amounts = intake_.take(now, sample)) {
    const double value = metric_ == ScalingMetric::rps ? amounts->arrivals : amounts->concurrency;
    // A late report stands for several periods; in one bucket it would look like a burst.
    const std::int64_t periods = std::min<std::int64_t>(amounts->periods, 60);
    for (std::int64_t i = 0; i < periods; ++i) record(now - i * kBucket, value / static_cast<double>(periods));
  }
  current_ = sample.current;
  peak_.record(now, current_);
  last_sample_ = now;
}

void LoadWindows::note_silence(Instant now, const ScalingInput& input) {
  if (!last_sample_) last_sample_ = now;
  const Duration silence = now - *last_sample_;
  if (silence < kBucket || input.ready + input.starting == 0) return;
  if (current_ != 0 && silence < kSilenceMax) return;
  current_ = 0;
  record(now, 0);
}

void LoadWindows::reconfigure(const ScalingSettings& settings, Instant now) {
  if (settings.metric != metric_) {
    // Requests per second and requests at once have nothing in common.
    stable_.clear();
    panic_.clear();
    metric_ = settings.metric;
  }
  stable_.resize(settings.stable_window, now);
  panic_.resize(panic_window_of(settings), now);
  peak_.resize(panic_window_of(settings));
  stable_.set_aggregation(settings.aggregation);
  panic_.set_aggregation(settings.aggregation);
}

// --- KnativeAutoscaler --------------------------------------------------------------------------------------------

std::uint32_t sandboxes_for(std::uint32_t in_flight, const ScalingSettings& settings, std::uint32_t concurrency_limit) {
  if (in_flight == 0) return 0;
  if (settings.metric == ScalingMetric::concurrency) {
    const double target =
        resolve_target(settings.metric, concurrency_limit, settings.target, settings.utilization_percent).target;
    return static_cast<std::uint32_t>(std::min(std::ceil(in_flight / target), 2147483647.0));
  }
  return concurrency_limit == 0 ? 1 : (in_flight - 1) / concurrency_limit + 1;
}

KnativeAutoscaler::KnativeAutoscaler(const ScalingSettings& settings, std::uint32_t concurrency_limit,
                                     std::uint32_t ready, Instant now)
    : settings_(settings),
      concurrency_limit_(concurrency_limit),
      windows_(settings),
      kpa_(kpa_start(ready, now)),
      guard_(settings, ready, now),
      last_now_(now) {}

void KnativeAutoscaler::observe(Instant now, const LoadSample& sample) {
  last_now_ = now;
  windows_.observe(now, sample);
}

void KnativeAutoscaler::reconfigure(const ScalingSettings& settings, std::uint32_t concurrency_limit) {
  settings_ = settings;
  concurrency_limit_ = concurrency_limit;
  windows_.reconfigure(settings, last_now_);
}

ScalingDecision KnativeAutoscaler::decide(const ScalingInput& input) {
  last_now_ = input.now;
  windows_.note_silence(input.now, input);

  ScalingDecision decision;
  decision.kind = AutoscalerKind::knative;
  decision.at = input.now;
  decision.input = input;
  const KpaSpec spec = kpa_spec(settings_, concurrency_limit_, input.reachable);
  decision.target = spec.target;
  if (!windows_.has_data(input.now)) {
    decision.excess_burst_capacity = excess_burst_before_first_look(spec, settings_.initial_scale);
    guard_.apply(settings_, std::nullopt, decision);
    return decision;
  }

  decision.stable_average = windows_.stable(input.now);
  decision.panic_average = windows_.panic(input.now);
  const bool every_queue = settings_.reaction == Reaction::every_queue;
  const bool by_concurrency = settings_.metric == ScalingMetric::concurrency;
  // What waits now is not in any average yet. It counts as if it had lasted for the panic window.
  if (every_queue && by_concurrency && input.urgent) {
    decision.panic_average = std::max<double>(decision.panic_average, windows_.current());
  }
  const KpaResult result =
      kpa_decide(spec, kpa_, input.now, input.ready, decision.stable_average, decision.panic_average);
  decision.stable_wish = result.stable_wish;
  decision.panic_wish = result.panic_wish;
  decision.panicking = result.panicking;
  decision.panicking_since = kpa_.panic_since;
  decision.rate_floor = result.floor;
  decision.rate_ceiling = result.ceiling;
  decision.excess_burst_capacity = result.excess_burst;
  decision.note = result.held_by_delay ? "scale-down delay" : result.panicking ? "panic" : "stable";

  std::uint32_t desired = result.desired;
  if (every_queue) {
    // Averages forget a short burst at once; the sandboxes it needed stay for as long as the panic window remembers it.
    const double need =
        std::min<double>(sandboxes_for(windows_.peak(input.now), settings_, concurrency_limit_), result.ceiling);
    if (need > desired) {
      desired = static_cast<std::uint32_t>(need);
      decision.note = input.urgent ? "requests waiting" : "needed within the panic window";
    }
  }
  guard_.apply(settings_, desired, decision);
  return decision;
}

namespace {

class KnativeFamily final : public AutoscalerFamily {
 public:
  [[nodiscard]] AutoscalerKind kind() const override { return AutoscalerKind::knative; }
  std::unique_ptr<Autoscaler> make(const FunctionName&, const ScalingSettings& settings,
                                   std::uint32_t concurrency_limit, std::uint32_t ready, Instant now) override {
    return std::make_unique<KnativeAutoscaler>(settings, concurrency_limit, ready, now);
  }
};

}  // namespace

std::unique_ptr<AutoscalerFamily> make_knative_family() { return std::make_unique<KnativeFamily>(); }

}  // namespace dirigent::policy
