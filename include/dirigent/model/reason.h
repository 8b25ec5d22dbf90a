// SPDX-License-Identifier: MIT
//
// Why the platform (not the function) answered a request with an error: a closed list. Each reason has one HTTP status
// and one promise about whether the function may have run. docs/errors.md is generated from the same table.
#pragma once

#include <span>
#include <string_view>

namespace dirigent {

enum class Reason {
  none,
  bad_request, not_found, tag_not_found, unauthorized, forbidden,
  rate_limited, max_inflight,
  queue_full, queue_timeout, no_capacity, no_node, image_pull, start_timeout, start_failed, probe_failed,
  paused, draining, store_unavailable, body_too_large, request_timeout,
  response_start_timeout, idle_timeout, max_duration,
  sandbox_lost, sandbox_reset, bad_response, client_gone, internal,
  overloaded,
};

enum class Ran { no, maybe };

struct ReasonTraits {
  Reason reason;
  std::string_view name;   // "queue-full": header X-Dirigent-Reason and the problem's `reason`
  int http_status;
  Ran ran;
  bool retry_after;        // the answer carries Retry-After
  std::string_view title;  // "queue full"
};
const ReasonTraits& traits(Reason reason);
std::span<const ReasonTraits> all_reasons();
std::string_view to_string(Reason reason);

}  // namespace dirigent
