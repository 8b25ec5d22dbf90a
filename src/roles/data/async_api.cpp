// SPDX-License-Identifier: MIT
#include "roles/data/async_api.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "dirigent/base/text.h"
#include "roles/data/http_head.h"
#include "roles/data/naming.h"
#include "roles/data/problem.h"

namespace dirigent::roles {

using core::CallPhase;
using core::CallState;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::size_t kListMax = 100'000;
constexpr std::size_t kShownMax = 4096;  // of a body, in `dlq show`

std::string print(const Json& json) { return json.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n"; }

Json call_json(const CallId& id, const CallState& state, WallTime now) {
  const auto us = [](WallTime time) { return time.time_since_epoch().count(); };
  return Json{{"id", to_string(id)},
              {"function", state.function.value},
              {"state", to_string(state.phase)},
              {"end", to_string(state.end)},
              {"status", state.status},
              {"reason", state.reason == Reason::none ? "" : to_string(state.reason)},
              {"attempts", state.attempts},
              {"attempts_max", state.attempts_max},
              {"accepted_at_us", us(state.accepted_at)},
              {"age_ms", to_milliseconds(now - state.accepted_at)},
              {"ended_at_us", us(state.ended_at)},
              {"due_in_ms", state.phase == CallPhase::waiting ? to_milliseconds(state.due_at - now) : 0.0},
              {"waited_ms", to_milliseconds(state.waited)},
              {"ran_ms", to_milliseconds(state.ran)},
              {"request_bytes", state.request_bytes},
              {"result_bytes", state.result_bytes},
              {"truncated", state.truncated},
              {"callback", to_string(state.callback)},
              {"callback_attempts", state.callback_attempts},
              {"callback_status", state.callback_status},
              {"idempotency_key", state.idempotency_key}};
}

Json shelf_json(const AsyncDesk::Shelf& shelf) {
  return Json{{"store", fmt::format("{:08x}", shelf.id)},
              {"directory", shelf.directory},
              {"problem", shelf.problem},
              {"adopted", shelf.adopted},
              {"calls", shelf.figures.calls},
              {"disk_bytes", shelf.figures.disk_bytes},
              {"live_bytes", shelf.figures.live_bytes},
              {"damaged_bytes", shelf.damage.damaged_bytes},
              {"torn_bytes", shelf.damage.torn_bytes},
              {"findings", shelf.damage.findings}};
}

io::HttpResponse error_response(const Error& error) {
  const int status = error.code == ErrorCode::already_exists ? 409 : traits(error.code).http_status;
  return io::text_response(status, error.message + "\n");
}

struct Query {
  std::string function, id, directory;
  std::optional<CallPhase> state;
  std::size_t limit = 1000;
  bool all = false;
};

Result<Query> parse_query(std::string_view text) {
  auto pairs = io::parse_form(text);
  if (!pairs) return failure(pairs.error());
  Query query;
  for (const auto& [name, value] : *pairs) {
    if (name == "function") {
      query.function = std::string(canonical_name(value));
    } else if (name == "id") {
      query.id = value;
    } else if (name == "directory") {
      query.directory = value;
    } else if (name == "all") {
      query.all = value == "true" || value == "1";
    } else if (name == "limit") {
      const auto limit = parse_integer(value);
      if (!limit || *limit < 1 || *limit > static_cast<std::int64_t>(kListMax)) {
        return failure(ErrorCode::invalid_argument, "limit: \"{}\" is not 1 to {}", value, kListMax);
      }
      query.limit = static_cast<std::size_t>(*limit);
    } else if (name == "state") {
      for (int phase = 0; phase <= static_cast<int>(CallPhase::expired); ++phase) {
        if (to_string(static_cast<CallPhase>(phase)) == value) query.state = static_cast<CallPhase>(phase);
      }
      if (!query.state) {
        return failure(ErrorCode::invalid_argument, "state: \"{}\" is not queued, waiting, running, done, dead or expired", value);
      }
    } else {
      return failure(ErrorCode::invalid_argument, "\"{}\" is unknown: use function, state, limit, id, all or directory", name);
    }
  }
  return query;
}

io::HttpResponse list(AsyncDesk& desk, const Query& query) {
  Json calls = Json::array();
  const WallTime now = desk.now();
  for (const auto& [id, state] : desk.queue().list(query.function, query.state, query.limit)) calls.push_back(call_json(id, state, now));
  Json stores = Json::array();
  for (const auto& shelf : desk.shelves()) stores.push_back(shelf_json(shelf));
  return io::json_response(200, print(Json{{"calls", std::move(calls)}, {"stores", std::move(stores)}}));
}

io::HttpResponse reply_response(const AsyncReply& reply, std::string_view call_id) {
  io::HttpResponse response;
  if (reply.reason != Reason::none) {
    Problem problem;
    problem.reason = reply.reason;
    problem.call_id = call_id;
    problem.detail = reply.detail;
    problem.retry_after = reply.retry_after;
    response.status = traits(reply.reason).http_status;
    write_problem_body(problem, response.body);
    response.headers.emplace_back("Content-Type", "application/problem+json");
    response.headers.emplace_back("X-Dirigent-Reason", to_string(reply.reason));
    if (reply.retry_after > Duration::zero()) {
      response.headers.emplace_back("Retry-After", std::to_string(retry_after_seconds(reply.retry_after)));
    }
    return response;
  }
  response.status = reply.status;
  response.body = reply.body;
  for (std::string_view rest = reply.headers; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find("\r\n"));
    rest.remove_prefix(std::min(line.size() + 2, rest.size()));
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos) response.headers.emplace_back(line.substr(0, colon), trim(line.substr(colon + 1)));
  }
  return response;
}

io::HttpResponse change_dead(AsyncDesk& desk, const Query& query, bool redrive) {
  std::vector<CallId> ids;
  if (query.all) {
    for (const auto& [id, state] : desk.queue().list(query.function, CallPhase::dead, kListMax)) {
      if (!redrive || state.end != core::CallEnd::corrupt) ids.push_back(id);
    }
  } else {
    const auto id = parse_call_id(query.id);
    if (!id) return io::text_response(400, fmt::format("\"{}\" is no id of a call (give id=ID or all=true)\n", query.id));
    if (!desk.owns(*id)) return io::text_response(421, "another data plane keeps this call\n");
    Status done = redrive ? desk.redrive(*id) : desk.purge(*id);
    if (!done) return error_response(done.error());
    const auto state = desk.queue().find(*id);
    return io::json_response(200, print(Json{{"changed", 1}, {"attempts_max", state ? state->attempts_max : 0}}));
  }
  std::uint64_t changed = 0;
  for (const CallId& id : ids) {
    if (redrive ? desk.redrive(id) : desk.purge(id)) ++changed;
  }
  return io::json_response(200, print(Json{{"changed", changed}}));
}

std::string shown(std::string_view bytes) { return std::string(bytes.substr(0, kShownMax)); }

io::Action show_dead(AsyncDesk& desk, CallId id, io::HttpResponse& response) {
  const auto state = desk.queue().find(id);
  if (!state) {
    response = io::text_response(404, "no such call\n");
    co_return;
  }
  Json json = call_json(id, *state, desk.now());
  auto request = co_await desk.read_request(id);
  if (request) {
    json["request_head"] = request->head;
    json["request_body"] = shown(request->body);
    json["callback_url"] = request->callback_url;
  } else {
    json["request_problem"] = request.error().message;
  }
  auto reply = co_await desk.local_result(id);
  if (reply && *reply && (*reply)->reason == Reason::none) json["answer"] = shown((*reply)->body);
  response = io::json_response(200, print(json));
}

}  // namespace

bool is_async_path(std::string_view path) {
  return path == "/v1/async" || path.starts_with("/v1/async/") || path == "/v1/dlq" || path.starts_with("/v1/dlq/");
}

io::Action handle_async(AsyncDesk* desk, io::HttpRequest request, io::HttpResponse& response) {
  if (desk == nullptr) {
    response = io::text_response(503, "this data plane takes no asynchronous calls (set async_dir, or async_durability to memory)\n");
    co_return;
  }
  const auto query = parse_query(request.query());
  if (!query) {
    response = io::text_response(400, query.error().message + "\n");
    co_return;
  }
  const auto parts = split(request.path().substr(1), '/');  // v1 async ID result
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const bool is_dlq = parts[1] == "dlq";
  if (parts.size() == 2 && reads) {
    Query wanted = *query;
    if (is_dlq) wanted.state = CallPhase::dead;
    response = list(*desk, wanted);
    co_return;
  }
  if (is_dlq && parts.size() == 2 && request.method == "DELETE") {
    response = change_dead(*desk, *query, false);
    co_return;
  }
  if (is_dlq && parts.size() == 3 && parts[2] == "redrive" && request.method == "POST") {
    response = change_dead(*desk, *query, true);
    co_return;
  }
  if (!is_dlq && parts.size() == 3 && parts[2] == "adopt" && request.method == "POST") {
    Status adopted = co_await desk->adopt(std::move(query->directory));
    response = adopted ? io::text_response(200, "adopted\n") : error_response(adopted.error());
    co_return;
  }
  const auto id = parts.size() >= 3 ? parse_call_id(parts[2]) : std::nullopt;
  if (!id) {
    response = io::text_response(404, "served here: /v1/async, /v1/async/ID, /v1/async/ID/result, /v1/async/adopt, /v1/dlq, /v1/dlq/ID, /v1/dlq/redrive\n");
    co_return;
  }
  if (!desk->owns(*id)) {
    response = io::text_response(421, "another data plane keeps this call\n");
    co_return;
  }
  if (is_dlq && reads && parts.size() == 3) {
    co_await show_dead(*desk, *id, response);
  } else if (!is_dlq && parts.size() == 4 && parts[3] == "result" && reads) {
    auto reply = co_await desk->local_result(*id);
    response = reply && *reply ? reply_response(**reply, parts[2]) : io::text_response(421, "another data plane keeps this call\n");
  } else if (!is_dlq && parts.size() == 3 && request.method == "DELETE") {
    const auto reply = desk->local_cancel(*id);
    response = reply ? reply_response(*reply, parts[2]) : io::text_response(421, "another data plane keeps this call\n");
  } else if (!is_dlq && parts.size() == 3 && reads) {
    const auto state = desk->queue().find(*id);
    response = state ? io::json_response(200, print(call_json(*id, *state, desk->now()))) : io::text_response(404, "no such call\n");
  } else {
    response = io::text_response(405, "not served here\n");
  }
}

// The original's clients take an empty answer for "not ready", and read Duration-Microseconds.
io::Action handle_poll(AsyncDesk& desk, io::HttpRequest request, io::HttpResponse& response) {
  if (request.path() == "/health" || request.path() == "/healthz") {
    response = io::text_response(200, "ok\n");
    co_return;
  }
  response.status = 204;
  const auto id = parse_call_id(trim(request.body));
  if (!id) co_return;
  auto reply = co_await desk.result(*id);
  if (!reply || reply->reason != Reason::none || reply->status != 200) co_return;
  response = reply_response(*reply, request.body);
  std::string duration;
  for (const auto& [name, value] : response.headers) {
    if (equals_ignoring_case(name, "x-duration-seconds")) {
      const auto seconds = parse_number(value);
      duration = std::to_string(static_cast<std::int64_t>(seconds.value_or(0) * 1e6));
    }
    // There the status of the function was the status of the answer; here it is told the same way where it is an answer.
    if (equals_ignoring_case(name, "x-function-status")) {
      const auto status = parse_integer(value);
      if (status && *status >= 200 && *status <= 599) response.status = static_cast<int>(*status);
    }
  }
  response.headers.emplace_back("Duration-Microseconds", duration);
}

}  // namespace dirigent::roles
