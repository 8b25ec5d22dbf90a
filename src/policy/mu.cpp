// SPDX-License-Identifier: MIT
//
// The autoscaler `mu`: enough sandboxes for the rate predicted for the next look, and for draining what waits now
// within the slack that a latency objective leaves.
#include "policy/mu.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "policy/families.h"
#include "policy/forecast.h"
#include "policy/knative.h"
#include "policy/rate_bank.h"

namespace dirigent::policy {

// --- RateBank -----------------------------------------------------------------------------------------------------

RateBank::RateBank() {
  for (const double rate : kRates) {
    for (const std::size_t window : kWindows) models_.push_back({rate, 0, 0, std::vector<double>(window, 0.0)});
  }
}

double RateBank::output(const Model& model) const {
  return std::inner_product(model.weights.begin(), model.weights.end(), history_.begin(), model.bias);
}

void RateBank::record(double value) {
  constexpr double kErrorMemory = 0.99;
  for (Model& model : models_) {
    const double error = value - output(model);
    const auto used = static_cast<std::ptrdiff_t>(model.weights.size());
    // The bias is a weight of the constant input 1, which also keeps the norm above zero.
    const double norm = std::inner_product(history_.begin(), history_.begin() + used, history_.begin(), 1.0);
    const double step = model.rate * error / norm;
    for (std::size_t i = 0; i < model.weights.size(); ++i) model.weights[i] += step * history_[i];
    model.bias += step;
    model.error = kErrorMemory * model.error + (1 - kErrorMemory) * std::abs(error);
  }
  std::copy_backward(history_.begin(), history_.end() - 1, history_.end());
  history_[0] = value;
}

const RateBank::Model& RateBank::best() const {
  return *std::min_element(models_.begin(), models_.end(),
                           [](const Model& a, const Model& b) { return a.error < b.error; });
}

double RateBank::predict() const {
  return std::clamp(output(best()), 0.0, *std::max_element(history_.begin(), history_.end()));
}

double RateBank::error() const { return best().error; }

// --- MuAutoscaler -------------------------------------------------------------------------------------------------

double mu_scale(double rate, double queue, double serving_rate, double slack_seconds) {
  return std::max(0.0, std::ceil(rate / serving_rate) + std::ceil(queue / (serving_rate * slack_seconds)));
}

namespace {

// The latency objective: a request may take ten times the time it takes when nothing waits, nine of it in the queue.
constexpr double kObjectiveFactor = 10;
// And never more than this in the queue: ten times a run of half a minute is longer than requests wait at all.
constexpr double kSlackSecondsMax = 10;
constexpr Duration kTrainEvery = 2s;

class MuAutoscaler final : public Autoscaler {
 public:
  MuAutoscaler(const ScalingSettings& settings, std::uint32_t concurrency_limit, std::uint32_t ready, Instant now)
      : settings_(settings),
        concurrency_limit_(concurrency_limit),
        windows_(settings),
        guard_(settings, ready, now),
        last_now_(now),
        trained_at_(now) {}

  void observe(Instant now, const LoadSample& sample) override {
    last_now_ = now;
    windows_.observe(now, sample);
    service_time_.observe(sample);
    arrivals_ += static_cast<double>(sample.arrivals);
    waiting_ = sample.waiting;
    in_flight_ = sample.current - std::min(sample.current, sample.waiting);
  }

  void reconfigure(const ScalingSettings& settings, std::uint32_t concurrency_limit) override {
    settings_ = settings;
    concurrency_limit_ = concurrency_limit;
    windows_.reconfigure(settings, last_now_);
  }

  ScalingDecision decide(const ScalingInput& input) override;

 private:
  void train(Instant now) {
    const Duration elapsed = now - trained_at_;
    if (elapsed < kTrainEvery) return;
    bank_.record(arrivals_ / to_seconds(elapsed));
    arrivals_ = 0;
    trained_at_ = now;
  }

  ScalingSettings settings_;
  std::uint32_t concurrency_limit_;
  LoadWindows windows_;
  ScaleGuard guard_;
  ServiceTime service_time_;
  RateBank bank_;
  Instant last_now_;
  Instant trained_at_;
  double arrivals_ = 0;  // since trained_at_
  std::uint32_t waiting_ = 0;
  std::uint32_t in_flight_ = 0;
};

ScalingDecision MuAutoscaler::decide(const ScalingInput& input) {
  last_now_ = input.now;
  windows_.note_silence(input.now, input);
  train(input.now);

  ScalingDecision decision;
  decision.kind = AutoscalerKind::mu;
  decision.at = input.now;
  decision.input = input;
  decision.target =
      resolve_target(settings_.metric, concurrency_limit_, settings_.target, settings_.utilization_percent).target;
  if (!windows_.has_data(input.now)) {
    guard_.apply(settings_, std::nullopt, decision);
    return decision;
  }
  decision.stable_average = windows_.stable(input.now);
  decision.panic_average = windows_.panic(input.now);
  decision.stable_wish = std::ceil(decision.stable_average / decision.target);
  decision.panic_wish = std::ceil(decision.panic_average / decision.target);
  decision.predicted = bank_.predict();

  const double seconds = service_time_.seconds() > 0 ? service_time_.seconds() : 1;
  const double capacity = sandbox_capacity(settings_, decision.target, service_time_);
  const double serving_rate = capacity > 0 ? capacity : decision.target / seconds;
  const double present = std::max(1.0, static_cast<double>(input.ready));
  decision.rate_floor = input.reachable ? std::floor(present / settings_.scale_down_rate_max) : 0;
  decision.rate_ceiling = std::ceil(settings_.scale_up_rate_max * present);
  const double slack = std::min((kObjectiveFactor - 1) * seconds, kSlackSecondsMax);
  double desired = mu_scale(decision.predicted, waiting_, serving_rate, slack);
  // The rates are averages: a run that takes longer keeps its sandbox until it is over, and is no help to who waits.
  desired = std::max(desired, std::ceil(in_flight_ / decision.target) + mu_scale(0, waiting_, serving_rate, slack));
  desired = std::min(std::max(desired, decision.rate_floor), decision.rate_ceiling);
  decision.note = "predicted rate and queue";

  const bool idle = decision.stable_average <= 0 && windows_.current() == 0;
  if (idle && desired <= 1) {
    // A trace of the prediction never quite becomes nothing; a whole window without a request does.
    desired = 0;
    decision.note = "idle for the window";
  } else if (!idle && desired < 1) {
    desired = 1;
    decision.note = "one while there is load";
  }
  guard_.apply(settings_, static_cast<std::uint32_t>(std::min(desired, 2147483647.0)), decision);
  return decision;
}

class MuFamily final : public AutoscalerFamily {
 public:
  [[nodiscard]] AutoscalerKind kind() const override { return AutoscalerKind::mu; }
  std::unique_ptr<Autoscaler> make(const FunctionName&, const ScalingSettings& settings,
                                   std::uint32_t concurrency_limit, std::uint32_t ready, Instant now) override {
    return std::make_unique<MuAutoscaler>(settings, concurrency_limit, ready, now);
  }
};

}  // namespace

std::unique_ptr<AutoscalerFamily> make_mu_family() { return std::make_unique<MuFamily>(); }

}  // namespace dirigent::policy
