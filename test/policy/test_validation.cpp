// SPDX-License-Identifier: MIT
//
// Golden group V: what settings may be. The rows about annotations as text belong to whoever reads text.
#include <fmt/core.h>

#include "catch.h"
#include "dirigent/model/scaling.h"

using namespace dirigent;

TEST_CASE("golden V: settings out of range are refused, and the message names the field") {
  int passed = 0;
  const auto row = [&](const char* id, const std::string& field, auto change) {
    INFO(id);
    ScalingSettings settings;
    change(settings);
    const Status status = validate(settings);
    CHECK(status.has_value() == field.empty());
    if (!status) {
      CHECK(status.error().code == ErrorCode::invalid_argument);
      INFO(status.error().message);
      CHECK(status.error().message.find(field) != std::string::npos);
    }
    passed += static_cast<int>(status.has_value() == field.empty());
  };
  using S = ScalingSettings&;
  row("V5", "scale_min", [](S s) {
    s.min_scale = 5;
    s.max_scale = 2;
  });
  row("V6", "", [](S s) {
    s.min_scale = 0;
    s.max_scale = 0;
  });
  row("V10", "", [](S s) {
    s.min_scale = 1;
    s.activation_scale = 2;
    s.max_scale = 3;
  });
  row("V11", "scale_activation", [](S s) {
    s.min_scale = 3;
    s.activation_scale = 2;
  });
  row("V12", "scale_activation", [](S s) {
    s.max_scale = 1;
    s.activation_scale = 2;
  });
  row("V14", "panic_window_percent", [](S s) { s.panic_window_percent = -1; });
  row("V14", "panic_window_percent", [](S s) { s.panic_window_percent = 202; });
  row("V15", "panic_threshold_percent", [](S s) { s.panic_threshold_percent = 109; });
  row("V15", "panic_threshold_percent", [](S s) { s.panic_threshold_percent = 10009; });
  row("V15", "", [](S s) { s.panic_threshold_percent = 210; });
  row("V16", "scale_target", [](S s) { s.target = -11; });
  row("V16", "scale_target", [](S s) { s.target = 0; });
  row("V16", "", [](S s) { s.target = 11; });
  row("V17", "target_burst_capacity", [](S s) { s.target_burst_capacity = -11; });
  row("V17", "", [](S s) { s.target_burst_capacity = 0; });
  row("V17", "", [](S s) { s.target_burst_capacity = -1; });
  row("V17", "", [](S s) { s.target_burst_capacity = 19870709; });
  row("V18", "scale_utilization_percent", [](S s) { s.utilization_percent = 0; });
  row("V18", "scale_utilization_percent", [](S s) { s.utilization_percent = 101; });
  row("V19", "scale_window", [](S s) { s.stable_window = 1s; });
  row("V19", "scale_window", [](S s) { s.stable_window = 365h; });
  row("V20", "scale_window", [](S s) { s.stable_window = 69s + 82ms; });
  row("V20", "", [](S s) { s.stable_window = 7s; });
  row("V21", "", [](S s) { s.last_sandbox_retention = 0s; });
  row("V21", "", [](S s) { s.last_sandbox_retention = 21min + 31s; });
  row("V22", "last_sandbox_retention", [](S s) { s.last_sandbox_retention = 311min; });
  row("V22", "last_sandbox_retention", [](S s) { s.last_sandbox_retention = -42s; });
  row("V23", "scale_down_delay", [](S s) { s.scale_down_delay = 42500ms; });
  row("V24", "scale_down_delay", [](S s) { s.scale_down_delay = 311min; });
  row("V24", "scale_down_delay", [](S s) { s.scale_down_delay = -42s; });
  row("V28", "scale_up_rate_max", [](S s) { s.scale_up_rate_max = 1; });
  row("V28", "scale_down_rate_max", [](S s) { s.scale_down_rate_max = 1; });
  row("V29", "target_burst_capacity", [](S s) { s.target_burst_capacity = -2; });

  const auto word = [&](const char* id, bool good) {
    INFO(id);
    CHECK(good);
    passed += static_cast<int>(good);
  };
  word("V13", !parse_aggregation("random-selection"));
  word("V13", parse_aggregation("linear").has_value());
  word("V25", !parse_scaling_metric("cpu"));
  word("V25", parse_scaling_metric("rps").has_value());
  word("V25", parse_scaling_metric("concurrency").has_value());
  fmt::print("golden group V: {} passed\n", passed);
}

TEST_CASE("every profile is within its own ranges") {
  for (const auto& name : scaling_profile_names()) {
    INFO(name);
    CHECK(validate(scaling_profile(name).value().scaling));
  }
  CHECK_FALSE(scaling_profile("latencyy"));
}
