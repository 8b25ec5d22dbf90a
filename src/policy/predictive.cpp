// SPDX-License-Identifier: MIT
//
// The autoscaler `predictive`: reactive for its first hour, then ahead of the load by an extrapolation of the last one.
#include <algorithm>
#include <cmath>
#include <limits>

#include "policy/families.h"
#include "policy/forecast.h"
#include "policy/knative.h"
#include "policy/smoothing.h"

namespace dirigent::policy {

namespace {

constexpr Duration kEpoch = 2s;
constexpr std::int64_t kEpochsPerMinute = 60s / kEpoch;
constexpr std::size_t kHistoryMinutes = 60;
constexpr std::size_t kHarmonics = 10;
constexpr std::int64_t kPredictEveryMinutes = 2;
// A sandbox is wanted from two epochs before it is needed.
constexpr std::size_t kLead = 3;
// The whole cluster should not create or remove more than this many sandboxes in an epoch.
constexpr std::uint32_t kStepsMax = 80;
// Smoothed anew every two minutes and five times as far: what lies further ahead is predicted again before it comes.
constexpr Duration kSmoothEvery = 120s;
constexpr std::size_t kSmoothEpochs = 300;

std::int64_t minute_of(Instant now) { return now.time_since_epoch() / 60s; }
std::int64_t epoch_of(Instant now) { return now.time_since_epoch() / kEpoch; }

// Requests of each of the last 60 whole minutes, oldest first, and of the present one.
class MinuteBins {
 public:
  void add(Instant now, double requests) {
    advance(now);
    open_ += requests;
  }
  void advance(Instant now) {
    const std::int64_t minute = minute_of(now);
    if (!started_) started_ = minute_ = minute;
    for (; minute_ < minute; ++minute_) {
      if (minute - minute_ <= static_cast<std::int64_t>(kHistoryMinutes)) {
        closed_.erase(closed_.begin());
        closed_.push_back(open_);
      }
      open_ = 0;
    }
  }
  [[nodiscard]] bool is_full() const {
    return started_ && minute_ - *started_ >= static_cast<std::int64_t>(kHistoryMinutes);
  }
  [[nodiscard]] const std::vector<double>& closed() const { return closed_; }
  [[nodiscard]] std::int64_t minute() const { return minute_; }

 private:
  std::optional<std::int64_t> started_;
  std::int64_t minute_ = 0;
  double open_ = 0;
  std::vector<double> closed_ = std::vector<double>(kHistoryMinutes, 0.0);
};

class PredictiveAutoscaler;

class PredictiveFamily final : public AutoscalerFamily {
 public:
  [[nodiscard]] AutoscalerKind kind() const override { return AutoscalerKind::predictive; }
  std::unique_ptr<Autoscaler> make(const FunctionName& function, const ScalingSettings& settings,
                                   std::uint32_t concurrency_limit, std::uint32_t ready, Instant now) override;

  void join(PredictiveAutoscaler* member) { members_.push_back(member); }
  void leave(PredictiveAutoscaler* member) { std::erase(members_, member); }
  // Smooths the forecasts of all functions when it is time to.
  void smooth_when_due(Instant now);

 private:
  std::vector<PredictiveAutoscaler*> members_;
  std::optional<Instant> smoothed_at_;
};

class PredictiveAutoscaler final : public Autoscaler {
 public:
  PredictiveAutoscaler(PredictiveFamily& family, const ScalingSettings& settings, std::uint32_t concurrency_limit,
                       std::uint32_t ready, Instant now)
      : family_(family),
        settings_(settings),
        concurrency_limit_(concurrency_limit),
        windows_(settings),
        guard_(settings, ready, now),
        last_now_(now),
        present_(ready) {
    bins_.advance(now);
    family_.join(this);
  }
  ~PredictiveAutoscaler() override { family_.leave(this); }
  PredictiveAutoscaler(const PredictiveAutoscaler&) = delete;
  PredictiveAutoscaler& operator=(const PredictiveAutoscaler&) = delete;

  void observe(Instant now, const LoadSample& sample) override {
    last_now_ = now;
    windows_.observe(now, sample);
    service_time_.observe(sample);
    bins_.add(now, static_cast<double>(sample.arrivals));
  }

  void reconfigure(const ScalingSettings& settings, std::uint32_t concurrency_limit) override {
    settings_ = settings;
    concurrency_limit_ = concurrency_limit;
    windows_.reconfigure(settings, last_now_);
  }

  ScalingDecision decide(const ScalingInput& input) override;

  [[nodiscard]] bool has_forecast() const { return !scale_.empty(); }
  // The forecast for `epochs` epochs from `first` on, after the number of sandboxes there are.
  [[nodiscard]] std::vector<std::uint32_t> series(std::int64_t first, std::size_t epochs) const;
  void accept(std::int64_t first, std::vector<std::uint32_t> smoothed) {
    smoothed_first_ = first;
    smoothed_ = std::move(smoothed);
  }

 private:
  void predict_when_due(double capacity);
  [[nodiscard]] std::uint32_t scale_at(std::int64_t epoch) const;
  [[nodiscard]] std::uint32_t forecast(std::int64_t epoch) const;

  PredictiveFamily& family_;
  ScalingSettings settings_;
  std::uint32_t concurrency_limit_;
  LoadWindows windows_;
  ScaleGuard guard_;
  ServiceTime service_time_;
  MinuteBins bins_;
  Instant last_now_;
  std::uint32_t present_;
  std::vector<std::uint32_t> scale_;  // per minute from scale_minute_ on; empty: no forecast yet
  std::int64_t scale_minute_ = 0;
  std::vector<std::uint32_t> smoothed_;  // per epoch from smoothed_first_ on
  std::int64_t smoothed_first_ = 0;
};

void PredictiveAutoscaler::predict_when_due(double capacity) {
  if (!bins_.is_full()) return;
  if (has_forecast() && bins_.minute() < scale_minute_ + kPredictEveryMinutes) return;
  const std::vector<double> per_minute = extrapolate(bins_.closed(), kHarmonics);
  scale_.clear();
  for (const double requests : per_minute) scale_.push_back(scale_for(requests, capacity));
  scale_minute_ = bins_.minute();
}

std::uint32_t PredictiveAutoscaler::scale_at(std::int64_t epoch) const {
  const std::int64_t index = epoch / kEpochsPerMinute - scale_minute_;
  const auto last = static_cast<std::int64_t>(scale_.size()) - 1;
  return scale_[static_cast<std::size_t>(std::clamp<std::int64_t>(index, 0, last))];
}

std::uint32_t PredictiveAutoscaler::forecast(std::int64_t epoch) const {
  const std::int64_t index = epoch - smoothed_first_;
  if (index >= 0 && index < static_cast<std::int64_t>(smoothed_.size()))
    return smoothed_[static_cast<std::size_t>(index)];
  return std::max(scale_at(epoch), scale_at(epoch + static_cast<std::int64_t>(kLead) - 1));
}

std::vector<std::uint32_t> PredictiveAutoscaler::series(std::int64_t first, std::size_t epochs) const {
  std::vector<std::uint32_t> wanted(epochs + kLead);
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = scale_at(first + static_cast<std::int64_t>(i));
  wanted = forward_maximum(wanted, kLead);
  wanted.resize(epochs);
  wanted.insert(wanted.begin(), present_);
  return wanted;
}

ScalingDecision PredictiveAutoscaler::decide(const ScalingInput& input) {
  last_now_ = input.now;
  present_ = input.ready + input.starting;
  windows_.note_silence(input.now, input);
  bins_.advance(input.now);

  ScalingDecision decision;
  decision.kind = AutoscalerKind::predictive;
  decision.at = input.now;
  decision.input = input;
  decision.target =
      resolve_target(settings_.metric, concurrency_limit_, settings_.target, settings_.utilization_percent).target;
  predict_when_due(sandbox_capacity(settings_, decision.target, service_time_));
  family_.smooth_when_due(input.now);

  if (!windows_.has_data(input.now) && !has_forecast()) {
    guard_.apply(settings_, std::nullopt, decision);
    return decision;
  }
  decision.stable_average = windows_.stable(input.now);
  decision.panic_average = windows_.panic(input.now);
  decision.stable_wish = std::ceil(decision.stable_average / decision.target);
  decision.panic_wish = std::ceil(decision.panic_average / decision.target);
  double desired = has_forecast() ? decision.panic_wish : decision.stable_wish;
  decision.note = has_forecast() ? "load above the forecast" : "stable average (the forecast needs an hour of history)";
  if (has_forecast()) {
    decision.predicted = forecast(epoch_of(input.now));
    if (decision.predicted >= desired) {
      desired = decision.predicted;
      decision.note = "forecast";
    }
  }
  const bool every_queue = settings_.reaction == Reaction::every_queue;
  const double need = every_queue ? sandboxes_for(windows_.peak(input.now), settings_, concurrency_limit_)
                                  : std::min<double>(1, windows_.current());
  if (need > desired) {
    desired = need;
    decision.note = input.urgent ? "requests waiting" : "needed within the panic window";
  }
  guard_.apply(settings_, static_cast<std::uint32_t>(std::min(desired, 2147483647.0)), decision);
  return decision;
}

void PredictiveFamily::smooth_when_due(Instant now) {
  if (smoothed_at_ && now - *smoothed_at_ < kSmoothEvery) return;
  const std::int64_t first = epoch_of(now);
  std::vector<PredictiveAutoscaler*> ready;
  std::vector<std::vector<std::uint32_t>> all;
  for (PredictiveAutoscaler* member : members_) {
    if (!member->has_forecast()) continue;
    ready.push_back(member);
    all.push_back(member->series(first, kSmoothEpochs));
  }
  if (ready.empty()) return;
  smoothed_at_ = now;
  smooth_up(all, kStepsMax);
  smooth_down(all, kStepsMax);
  for (std::size_t i = 0; i < ready.size(); ++i) {
    all[i].erase(all[i].begin());  // what there was
    ready[i]->accept(first, std::move(all[i]));
  }
}

std::unique_ptr<Autoscaler> PredictiveFamily::make(const FunctionName&, const ScalingSettings& settings,
                                                   std::uint32_t concurrency_limit, std::uint32_t ready, Instant now) {
  return std::make_unique<PredictiveAutoscaler>(*this, settings, concurrency_limit, ready, now);
}

}  // namespace

std::unique_ptr<AutoscalerFamily> make_predictive_family() { return std::make_unique<PredictiveFamily>(); }

}  // namespace dirigent::policy
