// SPDX-License-Identifier: MIT
#include "dirigent/model/reason.h"

#include <array>

#include "dirigent/base/assert.h"

namespace dirigent {

namespace {
// In the order of Reason. 429 and 503: the function did not run. 502 and 504: it may have run.
constexpr std::array kReasons{
    ReasonTraits{Reason::none, "none", 200, Ran::no, false, "no error"},
    ReasonTraits{Reason::bad_request, "bad-request", 400, Ran::no, false, "bad request"},
    ReasonTraits{Reason::not_found, "not-found", 404, Ran::no, false, "function not found"},
    ReasonTraits{Reason::tag_not_found, "tag-not-found", 404, Ran::no, false, "tag not found"},
    ReasonTraits{Reason::unauthorized, "unauthorized", 401, Ran::no, false, "credentials missing"},
    ReasonTraits{Reason::forbidden, "forbidden", 403, Ran::no, false, "not allowed"},
    ReasonTraits{Reason::rate_limited, "rate-limited", 429, Ran::no, true, "rate limit reached"},
    ReasonTraits{Reason::max_inflight, "max-inflight", 429, Ran::no, true, "too many requests in flight"},
    ReasonTraits{Reason::queue_full, "queue-full", 503, Ran::no, true, "queue full"},
    ReasonTraits{Reason::queue_timeout, "queue-timeout", 503, Ran::no, true, "waited too long for a sandbox"},
    ReasonTraits{Reason::no_capacity, "no-capacity", 503, Ran::no, true, "no node has room"},
    ReasonTraits{Reason::no_node, "no-node", 503, Ran::no, true, "there is no node"},
    ReasonTraits{Reason::image_pull, "image-pull", 503, Ran::no, true, "the image cannot be had"},
    ReasonTraits{Reason::start_timeout, "start-timeout", 503, Ran::no, true, "the sandbox did not become ready in time"},
    ReasonTraits{Reason::start_failed, "start-failed", 503, Ran::no, true, "the sandbox could not be started"},
    ReasonTraits{Reason::probe_failed, "probe-failed", 503, Ran::no, true, "the sandbox does not answer its probe"},
    ReasonTraits{Reason::paused, "paused", 503, Ran::no, false, "the function is paused"},
    ReasonTraits{Reason::draining, "draining", 503, Ran::no, true, "this data plane is shutting down"},
    ReasonTraits{Reason::store_unavailable, "store-unavailable", 503, Ran::no, true, "the store is unavailable"},
    ReasonTraits{Reason::body_too_large, "body-too-large", 413, Ran::no, false, "body too large"},
    ReasonTraits{Reason::request_timeout, "request-timeout", 408, Ran::maybe, false, "the request did not arrive in time"},
    ReasonTraits{Reason::response_start_timeout, "response-start-timeout", 504, Ran::maybe, false, "no response head in time"},
    ReasonTraits{Reason::idle_timeout, "idle-timeout", 504, Ran::maybe, false, "no byte for too long"},
    ReasonTraits{Reason::max_duration, "max-duration", 504, Ran::maybe, false, "the request took too long"},
    ReasonTraits{Reason::sandbox_lost, "sandbox-lost", 502, Ran::maybe, false, "the sandbox is gone"},
    ReasonTraits{Reason::sandbox_reset, "sandbox-reset", 502, Ran::maybe, false, "the sandbox closed the connection"},
    ReasonTraits{Reason::bad_response, "bad-response", 502, Ran::maybe, false, "the sandbox sent a broken response"},
    ReasonTraits{Reason::client_gone, "client-gone", 499, Ran::maybe, false, "the client went away"},
    ReasonTraits{Reason::internal, "internal", 500, Ran::maybe, false, "internal error"},
    ReasonTraits{Reason::overloaded, "overloaded", 503, Ran::no, true, "this data plane is short of memory"},
};
}  // namespace

const ReasonTraits& traits(Reason reason) {
  const auto index = static_cast<std::size_t>(reason);
  ASSERT(index < kReasons.size() && kReasons[index].reason == reason);
  return kReasons[index];
}
std::span<const ReasonTraits> all_reasons() { return kReasons; }
std::string_view to_string(Reason reason) { return traits(reason).name; }

}  // namespace dirigent
