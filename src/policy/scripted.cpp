// SPDX-License-Identifier: MIT
#include "dirigent/policy/scripted.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "policy/scale_rules.h"

namespace dirigent::policy {

namespace {

class ScriptedAutoscaler final : public Autoscaler {
 public:
  // `steps` are sorted and belong to the family.
  ScriptedAutoscaler(const std::vector<ScriptStep>& steps, Instant origin, const ScalingSettings& settings)
      : steps_(steps), origin_(origin), settings_(settings) {}

  void observe(Instant, const LoadSample&) override {}
  void reconfigure(const ScalingSettings& settings, std::uint32_t) override { settings_ = settings; }

  ScalingDecision decide(const ScalingInput& input) override {
    ScalingDecision decision;
    decision.kind = AutoscalerKind::scripted;
    decision.at = input.now;
    decision.input = input;
    const Duration elapsed = input.now - origin_;
    const auto next = std::upper_bound(steps_.begin(), steps_.end(), elapsed,
                                       [](Duration at, const ScriptStep& step) { return at < step.at; });
    if (next == steps_.begin()) {
      decision.raw = input.ready + input.starting;
      decision.note = steps_.empty() ? "no schedule for this function" : "before the first step of the schedule";
      return decision;
    }
    const ScriptStep& step = *std::prev(next);
    decision.raw = step.scale;
    const std::uint32_t min = input.reachable ? settings_.min_scale : 0;
    decision.desired = clamp_to({min, settings_.max_scale}, step.scale);
    decision.note = *decision.desired > step.scale   ? fmt::format("min scale {}", min)
                    : *decision.desired < step.scale ? fmt::format("max scale {}", settings_.max_scale)
                                                     : fmt::format("schedule at {}", format_duration(step.at));
    return decision;
  }

 private:
  const std::vector<ScriptStep>& steps_;
  Instant origin_;
  ScalingSettings settings_;
};

class ScriptedFamily final : public AutoscalerFamily {
 public:
  explicit ScriptedFamily(ScalingSchedule schedule) : schedule_(std::move(schedule)) {
    sort(schedule_.otherwise);
    for (auto& [function, steps] : schedule_.functions) sort(steps);
  }
  [[nodiscard]] AutoscalerKind kind() const override { return AutoscalerKind::scripted; }
  std::unique_ptr<Autoscaler> make(const FunctionName& function, const ScalingSettings& settings, std::uint32_t,
                                   std::uint32_t, Instant now) override {
    if (!origin_) origin_ = now;
    const auto found = schedule_.functions.find(function);
    const auto& steps = found == schedule_.functions.end() ? schedule_.otherwise : found->second;
    return std::make_unique<ScriptedAutoscaler>(steps, *origin_, settings);
  }

 private:
  static void sort(std::vector<ScriptStep>& steps) {
    std::stable_sort(steps.begin(), steps.end(), [](const ScriptStep& a, const ScriptStep& b) { return a.at < b.at; });
  }

  ScalingSchedule schedule_;
  std::optional<Instant> origin_;
};

}  // namespace

std::unique_ptr<AutoscalerFamily> make_scripted_family(ScalingSchedule schedule) {
  return std::make_unique<ScriptedFamily>(std::move(schedule));
}

}  // namespace dirigent::policy
