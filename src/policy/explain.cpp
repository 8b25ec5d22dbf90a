// SPDX-License-Identifier: MIT
#include "dirigent/policy/explain.h"

#include <fmt/format.h>

#include <algorithm>

#include "dirigent/base/text.h"
#include "policy/kpa.h"
#include "policy/scale_rules.h"
#include "policy/scores.h"

namespace dirigent::policy {

namespace {

std::string line(std::string_view name, const std::string& text) { return fmt::format("  {:<10} {}", name, text); }

// At most two digits after the point, none when there is nothing to show: 70, 0.7, 88.13.
std::string number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

// "6 s" for what is a whole number of seconds, as settings are.
std::string span(Duration d) {
  return d % 1s == Duration::zero() && d < 120s ? fmt::format("{} s", d / 1s) : format_duration(d);
}

std::string count(std::uint32_t sandboxes) {
  return sandboxes == 1 ? "1 sandbox" : fmt::format("{} sandboxes", sandboxes);
}

std::string metric_line(const ScalingDecision& decision, const ScalingSettings& settings) {
  return fmt::format("{}, average {} over {} and {} over {}",
                     settings.metric == ScalingMetric::rps ? "requests per second" : "concurrency",
                     number(decision.stable_average), span(settings.stable_window), number(decision.panic_average),
                     span(panic_window(settings.stable_window, settings.panic_window_percent)));
}

std::string target_line(const ScalingSettings& settings, std::uint32_t limit) {
  const ScalingTarget target = resolve_target(settings.metric, limit, settings.target, settings.utilization_percent);
  return fmt::format("{} per sandbox ({} x {}%)", number(target.target), number(target.total),
                     number(settings.utilization_percent));
}

std::string panic_line(const ScalingDecision& decision, const ScalingSettings& settings, Instant now) {
  const std::uint32_t present = std::max<std::uint32_t>(1, decision.input.ready);
  const std::string threshold = fmt::format("{}%", number(settings.panic_threshold_percent));
  if (!decision.panicking || !decision.panicking_since) {
    return fmt::format("no: wish {} with {} ready (below {})", number(decision.panic_wish), decision.input.ready,
                       threshold);
  }
  const Duration left = std::max(Duration::zero(), *decision.panicking_since + settings.stable_window - now);
  const bool just_now = decision.panic_wish / present >= settings.panic_threshold_percent / 100;
  return fmt::format("yes{}; ends in {} unless it happens again",
                     just_now ? fmt::format(": wish {} with {} ready (>= {})", number(decision.panic_wish),
                                            decision.input.ready, threshold)
                              : fmt::format(", since {} ago", span(decision.at - *decision.panicking_since)),
                     span(left));
}

std::string bounds_line(const ScalingSettings& settings) {
  return fmt::format("min {}, max {}, up x{}, down /{}", settings.min_scale,
                     settings.max_scale == 0 ? "none" : fmt::format("{}", settings.max_scale),
                     number(settings.scale_up_rate_max), number(settings.scale_down_rate_max));
}

// The decision again under other settings. Whether the function is in panic is kept, what the panic has reached is not:
// under other settings it would have reached something else.
std::uint32_t decide_again(const ScalingDecision& decision, const ScalingSettings& settings, std::uint32_t limit) {
  KpaState state;
  if (decision.panicking) state.panic_since = decision.panicking_since;
  const KpaSpec spec = kpa_spec(settings, limit, decision.input.reachable);
  const KpaResult result =
      kpa_decide(spec, state, decision.at, decision.input.ready, decision.stable_average, decision.panic_average);
  return clamp_to({decision.input.reachable ? settings.min_scale : 0, settings.max_scale}, result.desired);
}

}  // namespace

std::vector<WhatIf> what_if(const ScalingDecision& decision, const ScalingSettings& settings,
                            std::uint32_t concurrency_limit) {
  if (decision.kind != AutoscalerKind::knative || !decision.desired || decision.target <= 0) return {};
  if (decision.stable_average <= 0 && decision.panic_average <= 0) return {};
  std::vector<WhatIf> all;
  if (settings.utilization_percent != 100) {
    ScalingSettings changed = settings;
    changed.utilization_percent = 100;
    all.push_back({"utilisation 100%", decide_again(decision, changed, concurrency_limit)});
  }
  const double total =
      resolve_target(settings.metric, concurrency_limit, settings.target, settings.utilization_percent).total;
  if (concurrency_limit == 0 || settings.metric == ScalingMetric::rps) {
    ScalingSettings changed = settings;
    changed.target = total * 2;
    all.push_back({fmt::format("target {}", number(total * 2)), decide_again(decision, changed, concurrency_limit)});
  }
  if (settings.metric == ScalingMetric::concurrency) {
    const auto limit =
        concurrency_limit == 0 ? static_cast<std::uint32_t>(std::max(1.0, total / 2)) : concurrency_limit * 2;
    all.push_back({fmt::format("hard limit {}", limit), decide_again(decision, settings, limit)});
  }
  return all;
}

std::vector<std::string> describe(const ScalingDecision& decision, const ScalingSettings& settings,
                                  std::uint32_t concurrency_limit, Instant now) {
  std::vector<std::string> lines;
  const std::uint32_t present = decision.input.ready + decision.input.starting;
  lines.push_back(decision.desired ? fmt::format("why {}", count(*decision.desired))
                                   : fmt::format("why {} and no decision", count(present)));
  lines.push_back(line("policy", std::string(to_string(decision.kind))));
  lines.push_back(line("present", fmt::format("{} ready, {} starting{}", decision.input.ready, decision.input.starting,
                                              decision.input.urgent ? "; asked because a request waits" : "")));
  if (decision.kind != AutoscalerKind::scripted && decision.target > 0) {
    lines.push_back(line("metric", metric_line(decision, settings)));
    lines.push_back(line("target", target_line(settings, concurrency_limit)));
  }
  if (decision.kind == AutoscalerKind::knative && decision.target > 0) {
    lines.push_back(
        line("wish", fmt::format("ceil({}/{}) = {} stable, ceil({}/{}) = {} panic", number(decision.stable_average),
                                 number(decision.target), number(decision.stable_wish), number(decision.panic_average),
                                 number(decision.target), number(decision.panic_wish))));
    lines.push_back(line("panic", panic_line(decision, settings, now)));
  }
  if (decision.kind == AutoscalerKind::predictive) lines.push_back(line("forecast", number(decision.predicted)));
  if (decision.kind == AutoscalerKind::mu)
    lines.push_back(line("forecast", fmt::format("{} requests/s", number(decision.predicted))));
  lines.push_back(line("bounds", bounds_line(settings)));
  const std::string why = decision.note.empty() ? "" : fmt::format(" ({})", decision.note);
  lines.push_back(line(
      "result", decision.desired ? fmt::format("{}{}", *decision.desired, why) : fmt::format("kept as it is{}", why)));

  std::string alternatives;
  for (const WhatIf& alternative : what_if(decision, settings, concurrency_limit)) {
    alternatives += fmt::format("{}{} gives {}{}", alternatives.empty() ? "" : "; ", alternative.change,
                                alternative.desired, decision.desired == alternative.desired ? " as well" : "");
  }
  if (!alternatives.empty()) lines.push_back("what would change it: " + alternatives);
  return lines;
}

// --- Placement ----------------------------------------------------------------------------------------------------

namespace {

std::string usage_after(const NodeView& node, const Resources& asked) {
  const Resources used = node.reserved + asked;
  return fmt::format("cpu {}m of {}m, memory {} of {}, {} of {} sandboxes starting", used.cpu.value,
                     node.capacity.cpu.value, format_bytes(used.memory), format_bytes(node.capacity.memory),
                     node.pending + 1, node.sandboxes + 1);
}

std::string where_others_go(const PlacementDecision& decision, const PlacementRequest& request,
                            std::span<const NodeView> nodes) {
  std::string text;
  // Chance plays no part in these three but among equals, and then any of them is as good an answer.
  for (const auto kind : {PlacementKind::kubernetes, PlacementKind::best_fit, PlacementKind::dominant_resource}) {
    if (kind == decision.kind) continue;
    const auto index = make_node_index(kind);
    for (const NodeView& node : nodes) index->upsert(node);
    Rng rng(1);
    const auto other = index->choose(request, rng);
    if (!other) continue;
    text += fmt::format("{}{} gives {}{}", text.empty() ? "" : "; ", to_string(kind), other->node,
                        other->node == decision.node ? " as well" : "");
  }
  return text;
}

}  // namespace

std::vector<std::string> describe(const PlacementDecision& decision, const PlacementRequest& request,
                                  std::span<const NodeView> nodes) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("why {}", decision.node));
  lines.push_back(line("policy", std::string(to_string(decision.kind))));
  lines.push_back(line(
      "asked", fmt::format("cpu {}m, memory {}", request.resources.cpu.value, format_bytes(request.resources.memory))));
  std::string constraints;
  for (const auto& constraint : request.constraints) constraints += (constraints.empty() ? "" : ", ") + constraint;
  if (!constraints.empty()) lines.push_back(line("labels", constraints));
  if (!request.excluded.empty())
    lines.push_back(line("excluded", fmt::format("{} nodes that just failed", request.excluded.size())));
  lines.push_back(line("looked at", fmt::format("{} of {} nodes", decision.considered, nodes.size())));
  const auto chosen =
      std::find_if(nodes.begin(), nodes.end(), [&](const NodeView& node) { return node.id == decision.node; });
  if (chosen != nodes.end()) lines.push_back(line("after it", usage_after(*chosen, request.resources)));
  lines.push_back(line(
      "score", decision.score == 0 ? decision.note : fmt::format("{} ({})", number(decision.score), decision.note)));
  if (const std::string others = where_others_go(decision, request, nodes); !others.empty()) {
    lines.push_back("what would change it: " + others);
  }
  return lines;
}

}  // namespace dirigent::policy
