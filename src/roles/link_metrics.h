// SPDX-License-Identifier: MIT
//
// What every role tells of its connections to other roles.
#pragma once

#include <string_view>

#include "dirigent/io/prometheus.h"
#include "dirigent/rpc/cluster.h"

namespace dirigent::roles {

// `peer`: "control", or "member" (workers and data planes) on the control plane.
void write_link_metrics(io::PrometheusWriter& writer, const rpc::LinkCounters& counters, std::string_view peer);

}  // namespace dirigent::roles
