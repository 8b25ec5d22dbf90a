// SPDX-License-Identifier: MIT
//
// What the operator may set about the forwarding path of one data plane.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/policy/balancer.h"
#include "dirigent/roles/data_role.h"
#include "roles/data/http_head.h"

namespace dirigent::roles {

struct ProxyOptions {
  std::string listen = "127.0.0.1:0";
  std::uint32_t shards = 1;
  DataLimits limits;
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  bool expose_timing = true;
  std::uint32_t calls_kept = 10'000;         // the last ones, all shards together
  std::string access_log;                    // path, "-" = standard output, "" = none
  double access_log_sample = 1;              // of the calls, 0 to 1
  std::string host_id;                       // of this process: sandboxes of the same host are reached directly
  std::vector<std::string> trusted_proxies;  // addresses and networks, "10.0.0.0/8"
  AsyncOptions async;
  std::uint64_t seed = 1;
};

}  // namespace dirigent::roles
