// SPDX-License-Identifier: MIT
//
// A specification with every field set to something that is not the default, for tests of the forms it has.
#pragma once

#include "dirigent/model/function.h"

namespace dirigent::fakes {

inline RevisionSpec every_field_set() {
  RevisionSpec spec;
  spec.image = "exec:/bin/x";
  spec.arguments = {"a", "", "b \"c\""};
  spec.environment = {{"K", "v=1"}, {"ZAHL", "ä"}, {"EMPTY", ""}};
  spec.working_directory = "/srv";
  spec.user = "app:staff";
  spec.secrets = {{"key.pem", "AAH/"}};
  spec.port = 81;
  spec.protocol = HttpProtocol::h2c;
  spec.ready_path = "/ready";
  spec.resources = {Millicpu{250}, 64_MiB};
  spec.cpu_limit = Millicpu{500};
  spec.pids_max = 77;
  spec.concurrency_limit = 3;
  spec.limits = {1500ms, 700us, 2s, 3s, 9, 5_KiB, 4s, 5s};
  spec.scaling.min_scale = 1;
  spec.scaling.warm = 2;
  spec.scaling.max_scale = 9;
  spec.scaling.initial_scale = 3;
  spec.scaling.activation_scale = 4;
  spec.scaling.metric = ScalingMetric::rps;
  spec.scaling.aggregation = Aggregation::weighted_exponential;
  spec.scaling.target = 0.1;
  spec.scaling.utilization_percent = 33.3;
  spec.scaling.stable_window = 7s;
  spec.scaling.panic_window_percent = 100.0 / 3;
  spec.scaling.panic_threshold_percent = 150;
  spec.scaling.target_burst_capacity = -1;
  spec.scaling.scale_up_rate_max = 10;
  spec.scaling.scale_down_rate_max = 1.5;
  spec.scaling.scale_down_delay = 3s;
  spec.scaling.last_sandbox_retention = 4500ms;
  spec.scaling.scale_to_zero_grace = 1s;
  spec.scaling.scale_to_zero = false;
  spec.scaling.look_interval = 500ms;
  spec.scaling.reaction = Reaction::from_zero;
  spec.labels = {{"team", "x"}};
  spec.constraints = {"disk=ssd", "zone!=a"};
  spec.runtime = "process";
  return spec;
}

}  // namespace dirigent::fakes
