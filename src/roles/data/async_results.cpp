// SPDX-License-Identifier: MIT
//
// The desk's answers about calls, its own and those of other data planes; callbacks; and its metrics.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "io/https.h"
#include "roles/data/async_desk.h"
#include "roles/data/http_head.h"

namespace dirigent::roles {

using core::CallPhase;
using store::CallPart;

namespace {

constexpr Duration kAskTimeout = 3s;            // for another data plane, or the control plane, to answer
constexpr Duration kOthersKept = 2s;
constexpr Duration kCallbackTimeout = 5s;
constexpr std::uint32_t kCallbacksMax = 32;     // at a time
constexpr std::size_t kSecureCallers = 8;       // threads
constexpr std::size_t kMetricFunctionsMax = 1000;
constexpr double kCommitBounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10};

std::int64_t nanoseconds(WallTime time) { return time.time_since_epoch().count() * 1000; }

// What is known of a call's end, for whoever reads the result.
std::string end_headers(const core::CallState& state) {
  return fmt::format("X-Function-Name: {}\r\nX-Function-Status: {}\r\nX-Async-State: {}\r\nX-Retry: {}\r\nX-Retry-Max: {}\r\n"
                     "X-Start-Time: {}\r\nX-Duration-Seconds: {:.6f}\r\n{}",
                     state.function.value, state.status, to_string(state.phase), state.attempts, state.attempts_max,
                     nanoseconds(state.accepted_at), to_seconds(state.ran), state.truncated ? "X-Result-Truncated: true\r\n" : "");
}

AsyncReply problem(Reason reason, std::string detail, Duration retry_after = {}) {
  AsyncReply reply;
  reply.reason = reason;
  reply.detail = std::move(detail);
  reply.retry_after = retry_after;
  return reply;
}

AsyncReply state_reply(int status, std::string_view state) {
  AsyncReply reply;
  reply.status = status;
  reply.headers = "Content-Type: application/json\r\n";
  reply.body = fmt::format("{{\"state\":\"{}\"}}\n", state);
  return reply;
}

// Of what a control plane answers to GET /v1/data-planes; nullopt: it is something else.
std::optional<std::vector<std::string>> admin_addresses(std::string_view body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("data_planes") || !json["data_planes"].is_array()) return std::nullopt;
  const auto text = [](const nlohmann::json& object, const char* name) {
    const bool is_text = object.is_object() && object.contains(name) && object[name].is_string();
    return is_text ? object[name].get<std::string>() : std::string();
  };
  std::vector<std::string> addresses;
  for (const auto& plane : json["data_planes"]) {
    std::string admin = text(plane, "admin_address");
    const std::string invoke = text(plane, "invoke_address");
    // One on every address of its machine is at the machine's own: the one that clients use.
    if (admin.starts_with("0.0.0.0:") || admin.starts_with("[::]:")) {
      admin = invoke.substr(0, invoke.rfind(':')) + admin.substr(admin.rfind(':'));
    }
    if (!admin.empty()) addresses.push_back(std::move(admin));
  }
  return addresses;
}

std::string strip_names(std::string_view headers, std::initializer_list<std::string_view> names) {
  std::string kept;
  while (!headers.empty()) {
    const std::size_t end = headers.find("\r\n");
    const std::string_view line = headers.substr(0, end);
    headers.remove_prefix(end == std::string_view::npos ? headers.size() : end + 2);
    const std::string_view name = line.substr(0, line.find(':'));
    const bool is_named = std::any_of(names.begin(), names.end(), [&](std::string_view n) { return equals_ignoring_case(n, name); });
    if (!is_named) kept.append(line).append("\r\n");
  }
  return kept;
}

}  // namespace

// --- results ------------------------------------------------------------------------------------------------------

io::Task<std::optional<AsyncReply>> AsyncDesk::local_result(CallId id) {
  using Reply = std::optional<AsyncReply>;
  if (store_of(id) == nullptr) {
    if (own_is_open_) co_return Reply{};
    co_return Reply(problem(Reason::store_unavailable, own_problem_, 1s));
  }
  const auto state = queue_->find(id);
  if (!state) co_return Reply(problem(Reason::not_found, fmt::format("call {} is not known here (any more)", to_string(id))));
  if (state->phase == CallPhase::expired) {
    AsyncReply gone = state_reply(410, state->end == core::CallEnd::cancelled ? "cancelled" : "expired");
    gone.headers += "X-Async-State: expired\r\n";
    co_return Reply(std::move(gone));
  }
  if (state->phase != CallPhase::done && state->phase != CallPhase::dead) {
    AsyncReply wait = state_reply(202, to_string(state->phase));
    wait.headers += fmt::format("Retry-After: 1\r\nX-Async-State: {}\r\n", to_string(state->phase));
    co_return Reply(std::move(wait));
  }
  AsyncReply reply;
  reply.status = 200;
  auto bytes = co_await read_part(id, CallPart::result);
  if (!bytes && bytes.error().code == ErrorCode::not_found) {
    // Given up before a first answer: too old, or damaged.
    reply.headers = "Content-Type: application/json\r\n" + end_headers(*state);
    reply.body = fmt::format("{{\"state\":\"{}\",\"end\":\"{}\"}}\n", to_string(state->phase), to_string(state->end));
    co_return Reply(std::move(reply));
  }
  Result<StoredResult> result = bytes ? decode_stored_result(*bytes) : Result<StoredResult>(failure(bytes.error()));
  if (!result) {
    log_error("data", "the result of call {} cannot be told: {}", to_string(id), result.error().message);
    ++damaged_calls_;
    co_return Reply(problem(Reason::store_unavailable, result.error().message));
  }
  reply.headers = strip_names(result->headers, {"x-retry", "x-retry-max", "x-function-name", "x-function-status", "x-async-state",
                                                "x-start-time"}) + end_headers(*state);
  reply.body = std::move(result->body);
  co_return Reply(std::move(reply));
}

io::Task<AsyncReply> AsyncDesk::result(CallId id) {
  auto local = co_await local_result(id);
  if (!local) co_return failure(local.error());
  if (*local) co_return std::move(**local);
  co_return co_await ask_others("GET", id);
}

std::optional<AsyncReply> AsyncDesk::local_cancel(const CallId& id) {
  if (store_of(id) == nullptr) {
    if (own_is_open_) return std::nullopt;
    return problem(Reason::store_unavailable, own_problem_, 1s);
  }
  const Status done = cancel(id);
  if (done) return state_reply(202, "cancelled");
  if (done.error().code == ErrorCode::not_found) return problem(Reason::not_found, done.error().message);
  AsyncReply reply = state_reply(409, "conflict");
  reply.body = fmt::format("{{\"detail\":\"{}\"}}\n", done.error().message);
  return reply;
}

io::Action AsyncDesk::answer_result(Place place, CallId id) {
  auto reply = co_await result(id);
  AsyncReply told = reply ? std::move(*reply) : problem(Reason::store_unavailable, reply.error().message, 1s);
  host_.reply(place.shard, place.token, std::move(told));
}

io::Action AsyncDesk::answer_cancel(Place place, CallId id) {
  auto local = local_cancel(id);
  AsyncReply told;
  if (local) {
    told = std::move(*local);
  } else {
    auto reply = co_await ask_others("DELETE", id);
    told = reply ? std::move(*reply) : problem(Reason::store_unavailable, reply.error().message, 1s);
  }
  host_.reply(place.shard, place.token, std::move(told));
}

// --- other data planes --------------------------------------------------------------------------------------------

io::Task<std::vector<std::string>> AsyncDesk::other_planes() {
  if (!others_.empty() && io::Loop::now() - others_read_ < kOthersKept) co_return others_;
  Error last{ErrorCode::unavailable, "no control plane is known that lists the data planes (set async_directory)"};
  for (const std::string& server : options_.directory_servers) {
    io::HttpCall call;
    call.server = server;
    call.target = "/v1/data-planes";
    call.timeout = kAskTimeout;
    auto answer = co_await io::http_call(main_, std::move(call));
    if (!answer) {
      last = answer.error();
      continue;
    }
    auto planes = answer->status == 200 ? admin_addresses(answer->body) : std::nullopt;
    if (!planes) {
      last = Error{ErrorCode::unavailable, fmt::format("{} does not list data planes (status {})", server, answer->status)};
      continue;
    }
    others_ = std::move(*planes);
    others_read_ = io::Loop::now();
    co_return others_;
  }
  co_return failure(last);
}

io::Task<AsyncReply> AsyncDesk::ask_others(std::string method, CallId id) {
  const std::string owner = fmt::format("call {} is kept by another data plane (store {:08x})", to_string(id), id.store());
  auto planes = co_await other_planes();
  if (!planes) co_return problem(Reason::store_unavailable, fmt::format("{}, which cannot be found: {}", owner, planes.error().message), 1s);
  std::string why = "none that is connected has it";
  for (const std::string& address : *planes) {
    io::HttpCall call;
    call.server = address;
    call.method = method;
    call.target = fmt::format("/v1/async/{}{}", to_string(id), method == "GET" ? "/result" : "");
    call.timeout = kAskTimeout;
    auto answer = co_await io::http_call(main_, std::move(call));
    if (!answer) {
      why = answer.error().message;
      continue;
    }
    if (answer->status == 421) continue;  // it has another store
    AsyncReply reply;
    reply.status = answer->status;
    for (const auto& [name, value] : answer->headers) {
      const HeaderKind kind = header_kind(name);
      const bool is_framing = kind == HeaderKind::content_length || kind == HeaderKind::transfer_encoding ||
                              kind == HeaderKind::connection || kind == HeaderKind::keep_alive || kind == HeaderKind::x_call_id;
      if (!is_framing) reply.headers += fmt::format("{}: {}\r\n", name, value);
    }
    reply.body = std::move(answer->body);
    co_return reply;
  }
  co_return problem(Reason::store_unavailable, fmt::format("{}, which cannot be asked now: {}", owner, why), 1s);
}

// --- retry labels -------------------------------------------------------------------------------------------------

std::vector<std::pair<std::string, std::string>> labels_of_function(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> labels;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("revisions") || !json["revisions"].is_array()) return labels;
  const auto serving = json.find("serving");
  const nlohmann::json* chosen = nullptr;
  for (const auto& revision : json["revisions"]) {
    chosen = &revision;  // the newest is the last
    if (serving != json.end() && serving->is_number() && revision.is_object() && revision.contains("revision") && revision["revision"] == *serving) break;
  }
  if (chosen == nullptr || !chosen->is_object() || !chosen->contains("spec")) return labels;
  const auto& spec = (*chosen)["spec"];
  if (!spec.is_object() || !spec.contains("labels") || !spec["labels"].is_object()) return labels;
  for (const auto& [name, value] : spec["labels"].items()) {
    if (value.is_string()) labels.emplace_back(name, value.get<std::string>());
  }
  return labels;
}

io::Action AsyncDesk::learn_and_settle(CallId id, core::AttemptOutcome outcome, StoredResult result, FunctionName function) {
  for (const std::string& server : options_.directory_servers) {
    io::HttpCall call;
    call.server = server;
    call.target = "/v1/functions/" + function.value;
    call.timeout = kAskTimeout;
    auto answer = co_await io::http_call(main_, std::move(call));
    if (!answer || answer->status != 200) continue;
    core::RetryPolicy policy;
    policy.attempts_max = options_.attempts_max;
    policy.backoff_min = options_.backoff_min;
    policy.backoff_max = options_.backoff_max;
    queue_->set_retry(function, with_labels(std::move(policy), labels_of_function(answer->body)));
    break;
  }
  labels_read_[function.value] = io::Loop::now();
  settle_attempt(id, outcome, std::move(result));
}

// --- callbacks ----------------------------------------------------------------------------------------------------

Status AsyncDesk::load_secret() {
  if (options_.callback_secret_file.empty()) return {};
  std::ifstream file(options_.callback_secret_file);
  std::stringstream text;
  text << file.rdbuf();
  secret_ = std::string(trim(text.str()));
  if (!file || secret_.size() < 16) {
    return failure(ErrorCode::invalid_argument, "async_callback_secret: {} cannot be read, or has fewer than 16 characters",
                   options_.callback_secret_file);
  }
  return {};
}

void AsyncDesk::begin_callbacks() {
  while (!callbacks_.empty() && callbacks_running_ < kCallbacksMax && !stopping_) {
    const CallId id = callbacks_.front();
    callbacks_.pop_front();
    ++callbacks_running_;
    tasks_->spawn(call_back(id));
  }
}

io::Action AsyncDesk::call_back(CallId id) {
  auto status = co_await deliver(id);
  --callbacks_running_;
  if (stopping_) co_return;
  const bool refused = !status && (status.error().code == ErrorCode::permission_denied ||
                                   status.error().code == ErrorCode::invalid_argument);
  if (!status) log_warn("data", "the callback of call {} failed: {}", to_string(id), status.error().message);
  queue_->called_back(id, status ? *status : std::uint16_t{0}, refused, now(), effects_);
  begin_callbacks();
  pump();
}

// The receiver's status.
io::Task<std::uint16_t> AsyncDesk::deliver(CallId id) {
  const auto state = queue_->find(id);
  if (!state) co_return failure(ErrorCode::invalid_argument, "the call is gone");
  auto request_bytes = co_await read_part(id, CallPart::request);
  if (!request_bytes) co_return failure(request_bytes.error());
  const auto request = decode_stored_request(*request_bytes);
  if (!request) co_return failure(request.error());
  const auto url = parse_callback_url(request->callback_url);
  if (!url) co_return failure(url.error());
  // The rules may have changed since the call was accepted.
  if (Status allowed = callback_rules_.check_url(*url); !allowed) co_return failure(allowed.error());
  std::vector<AddressBytes> addresses{url->address};
  if (!url->is_address) {
    auto resolve = [host = &url->host] { return resolve_host(*host); };
    auto resolved = co_await readers_->run(resolve);
    if (!resolved) co_return failure(resolved.error());
    addresses = std::move(*resolved);
  }
  // One bad address among good ones is what an attack on names looks like.
  for (const AddressBytes& address : addresses) {
    if (Status allowed = callback_rules_.check_address(*url, address); !allowed) co_return failure(allowed.error());
  }
  if (addresses.empty()) co_return failure(ErrorCode::unavailable, "{} has no address", url->host);

  StoredResult result;
  result.status = state->status;
  auto result_bytes = co_await read_part(id, CallPart::result);
  if (result_bytes) {
    auto decoded = decode_stored_result(*result_bytes);
    if (!decoded) co_return failure(decoded.error());
    result = std::move(*decoded);
  }
  io::HttpCall call;
  std::string text = format_address_bytes(addresses.front());
  call.server = text.find(':') == std::string::npos ? fmt::format("{}:{}", text, url->port) : fmt::format("[{}]:{}", text, url->port);
  call.method = "POST";
  call.target = url->target;
  call.timeout = kCallbackTimeout;
  call.body_max = 64_KiB;
  const std::string stamp = std::to_string(std::chrono::duration_cast<std::chrono::seconds>(now().time_since_epoch()).count());
  call.headers = {{"Host", url->authority()},
                  {"X-Call-Id", to_string(id)},
                  {"X-Function-Name", state->function.value},
                  {"X-Function-Status", std::to_string(state->status)},
                  {"X-Duration-Seconds", fmt::format("{:.6f}", to_seconds(state->ran))},
                  {"X-Start-Time", std::to_string(nanoseconds(state->accepted_at))},
                  {"X-Retry", std::to_string(state->attempts)},
                  {"X-Retry-Max", std::to_string(state->attempts_max)}};
  for (std::string_view rest = result.headers; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find("\r\n"));
    rest.remove_prefix(std::min(line.size() + 2, rest.size()));
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos && equals_ignoring_case(line.substr(0, colon), "content-type")) {
      call.headers.emplace_back("Content-Type", trim(line.substr(colon + 1)));
    }
  }
  if (!secret_.empty()) {
    call.headers.emplace_back("X-Dirigent-Timestamp", stamp);
    call.headers.emplace_back("X-Dirigent-Signature-256", sign_callback(secret_, stamp, result.body));
  }
  call.body = std::move(result.body);
  if (url->is_secure) {
    io::HttpsPost post;
    post.host = url->host;
    post.port = url->port;
    post.address = std::move(text);
    post.target = std::move(call.target);
    post.headers.assign(call.headers.begin() + 1, call.headers.end());  // without Host
    post.body = std::move(call.body);
    post.timeout = kCallbackTimeout;
    post.ca_file = options_.callback_ca_file;
    if (!secure_callers_) secure_callers_ = std::make_unique<io::BlockingPool>(kSecureCallers, "callbacks");
    auto send = [&post] { return io::https_post(post); };
    auto status = co_await secure_callers_->run(std::move(send));
    if (!status) co_return failure(status.error());
    co_return static_cast<std::uint16_t>(*status);
  }
  auto answer = co_await io::http_call(main_, std::move(call));
  if (!answer && answer.error().code == ErrorCode::exhausted) co_return std::uint16_t{200};  // it answers at length: so be it
  if (!answer) co_return failure(answer.error());
  co_return static_cast<std::uint16_t>(answer->status);
}

// --- metrics ------------------------------------------------------------------------------------------------------

void AsyncDesk::write_metrics(io::PrometheusWriter& to) const {
  auto depths = queue_->depths();
  std::sort(depths.begin(), depths.end(), [](const auto& a, const auto& b) { return a.queued + a.waiting > b.queued + b.waiting; });
  if (depths.size() > kMetricFunctionsMax) depths.resize(kMetricFunctionsMax);
  for (const auto& depth : depths) {
    to.gauge("dirigent_async_queued", "Asynchronous calls that wait for their turn.", static_cast<double>(depth.queued),
             {{"fn", depth.function.value}});
  }
  for (const auto& depth : depths) {
    to.gauge("dirigent_async_retrying", "Asynchronous calls that wait for another attempt.", static_cast<double>(depth.waiting),
             {{"fn", depth.function.value}});
  }
  for (const auto& depth : depths) {
    to.gauge("dirigent_async_in_flight", "Attempts that are being made.", static_cast<double>(depth.in_flight),
             {{"fn", depth.function.value}});
  }
  for (const auto& depth : depths) {
    to.gauge("dirigent_async_oldest_seconds", "Age of the oldest call that waits for its turn.",
             depth.oldest ? to_seconds(now() - *depth.oldest) : 0, {{"fn", depth.function.value}});
  }
  const core::AsyncCounters& counters = queue_->counters();
  const auto count = [&](std::string_view name, std::string_view help, std::uint64_t value) {
    to.counter(name, help, static_cast<double>(value));
  };
  count("dirigent_async_accepted_total", "Calls whose 202 was earned.", counters.accepted);
  count("dirigent_async_repeated_total", "Requests answered with the call that had their Idempotency-Key first.", repeated_);
  count("dirigent_async_refused_total", "Calls that could not be stored.", refused_);
  count("dirigent_async_done_total", "Calls that ended with an answer.", counters.done);
  count("dirigent_async_retries_total", "Attempts that failed and were followed by another.", counters.retried);
  count("dirigent_async_held_total", "Attempts for which the cluster had no room.", counters.held);
  count("dirigent_async_dead_total", "Calls that became dead letters.", counters.dead);
  to.gauge("dirigent_async_dead_letters", "Dead letters that are kept.", static_cast<double>(queue_->dead_letters()));
  count("dirigent_async_expired_total", "Results and dead letters whose time was over.", counters.expired);
  count("dirigent_async_damaged_total", "Calls of which something stored could not be read.", damaged_calls_);
  to.counter("dirigent_async_callbacks_total", "Callbacks.", static_cast<double>(counters.callbacks_delivered), {{"outcome", "delivered"}});
  to.counter("dirigent_async_callbacks_total", "Callbacks.", static_cast<double>(counters.callbacks_failed), {{"outcome", "failed"}});
  to.counter("dirigent_async_callbacks_total", "Callbacks.", static_cast<double>(counters.callbacks_retried), {{"outcome", "retried"}});
  to.histogram("dirigent_async_commit_seconds", "From a whole request to its 202.", commit_, kCommitBounds);
  store::CallStoreFigures sum;
  std::uint64_t damaged = 0;
  for (const auto& store : stores_) {
    const auto figures = store->figures();
    sum.disk_bytes += figures.disk_bytes;
    sum.live_bytes += figures.live_bytes;
    sum.groups += figures.groups;
    sum.writes += figures.writes;
    sum.failed += figures.failed;
    damaged += store->damage().damaged_bytes;
  }
  to.gauge("dirigent_async_store_up", "1 while calls can be stored.", own_is_open_ && unsaved_.empty() ? 1 : 0);
  to.gauge("dirigent_async_store_bytes", "Files of the stores.", static_cast<double>(sum.disk_bytes));
  to.gauge("dirigent_async_store_live_bytes", "Of them, what is needed.", static_cast<double>(sum.live_bytes));
  to.gauge("dirigent_async_store_damaged_bytes", "Bytes that were no record when the stores were opened.", static_cast<double>(damaged));
  count("dirigent_async_store_syncs_total", "Synced writes.", sum.groups);
  count("dirigent_async_store_writes_total", "Changes in them.", sum.writes);
  count("dirigent_async_store_failures_total", "Changes that could not be written.", sum.failed);
}

}  // namespace dirigent::roles
