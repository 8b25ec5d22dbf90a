// SPDX-License-Identifier: MIT
#include "group_api.h"

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "control_role_impl.h"
#include "dirigent/base/text.h"
#include "problem_answer.h"
#include "view_json.h"

namespace dirigent::roles {

namespace {

using Answer = asio::awaitable<io::HttpResponse, asio::io_context::executor_type>;
using nlohmann::json;
constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};

// An election takes a tenth of this. Who waits longer had better ask another control plane.
constexpr Duration kLeaderPatience = 800ms;
// A long poll may take a minute.
constexpr Duration kForwardTimeout = 75s;
// A leader that has been replaced may still answer what it was asked: its answer can be on the way.
constexpr Duration kLastWords = 200ms;
constexpr std::string_view kForwarded = "x-dirigent-forwarded";
// In an answer to a request that was passed on: nothing has been done, the leader is another one.
constexpr std::string_view kNotLeader = "X-Dirigent-Not-Leader";
// Between two looks for the leader while its change has not been noticed here.
constexpr Duration kLookInterval = 10ms;

bool is_of_connection(std::string_view lower) {
  return lower == "connection" || lower == "keep-alive" || lower == "transfer-encoding" || lower == "content-length" || lower == "host" || lower == "te" ||
         lower == "upgrade" || lower == "expect" || lower == kForwarded;
}

io::Headers without_those_of_connection(const io::Headers& headers) {
  io::Headers kept;
  for (const auto& [name, value] : headers) {
    if (!is_of_connection(to_lower(name))) kept.emplace_back(name, value);
  }
  return kept;
}

std::string members_json(const GroupView& view) {
  json members = json::array();
  for (const auto& member : view.members) {
    json one{{"id", member.id}, {"address", member.address}, {"role", member.role}};
    if (member.match != 0) one["match"] = member.match, one["lag"] = member.lag;
    if (member.last_heard) one["last_heard_ms"] = to_milliseconds(*member.last_heard);
    members.push_back(std::move(one));
  }
  return json{{"answered_by", view.self}, {"leader", view.leader}, {"term", view.term.value}, {"commit", view.commit}, {"last", view.last}, {"members", std::move(members)}}
      .dump();
}

class Front {
 public:
  Front(ControlRoleImpl& role, Port port, io::HttpHandler local) : role_(role), port_(port), local_(std::move(local)) {}

  Answer answer(io::HttpRequest request) {
    const std::string path(request.path());
    const bool is_about_group = path == "/v1/control" || path.starts_with("/v1/control/");
    if (!role_.has_group()) {
      if (is_about_group) {
        co_return problem(404, "not-found", "this control plane is alone", "a group is started with --peer-id and --peers", false);
      }
      co_return co_await local_(std::move(request));
    }
    if (path == "/healthz" || path == "/metrics") co_return co_await local_(std::move(request));
    if (path == "/readyz") co_return ready();
    const Instant deadline = io::Loop::now() + kLeaderPatience;
    for (;;) {
      if (role_.leads()) {
        if (is_about_group) co_return co_await about_group(std::move(request), path);
        co_return co_await local_(std::move(request));
      }
      const auto leader = role_.other_leader();
      const bool was_passed_on = io::find_header(request.headers, kForwarded).has_value();
      if (was_passed_on) {
        auto moved = problem(503, "unavailable", "this control plane does not lead any more; nothing has been changed", "", true);
        moved.headers.emplace_back(kNotLeader, "1");
        co_return moved;
      }
      const std::string server = !leader ? "" : port_ == Port::admin ? leader->admin : leader->form;
      if (!server.empty()) {
        auto passed = co_await pass_on(request, server);
        const bool has_moved = passed && io::find_header(passed->headers, kNotLeader).has_value();
        if (passed && !has_moved) co_return std::move(*passed);
        if (has_moved && io::Loop::now() < deadline) {
          (void)co_await role_.leadership_changed(std::min(deadline, io::Loop::now() + kLookInterval));
          continue;
        }
        if (has_moved) co_return std::move(*passed);
        // Once more where nothing can happen twice: the leader may have died just now, and the next one is seen soon.
        const bool is_safe = request.method == "GET" || request.method == "HEAD" || request.method == "PUT";
        if (!is_safe || io::Loop::now() >= deadline) co_return problem(503, "unavailable", passed.error().message, "the change may have been made or not: look, then try again", true);
      }
      if (is_about_group && request.method == "GET" && !leader) co_return io::json_response(200, members_json(role_.group_view()));
      auto moved = co_await role_.leadership_changed(deadline);
      if (moved) continue;
      co_return problem(503, "unavailable", "no control plane leads the group now",
                        "a majority of its members must be up and reach each other; nothing has been changed", true);
    }
  }

 private:
  io::HttpResponse ready() {
    if (role_.leads()) return io::text_response(200, "ready, leading\n");
    if (const auto leader = role_.other_leader()) return io::text_response(200, fmt::format("ready, following member {}\n", leader->id));
    return io::text_response(503, "nobody leads the group\n");
  }

  // A leader that is paused or cut off never answers: whoever waits for it goes on as soon as there is another one.
  struct Exchange {
    explicit Exchange(io::Loop& loop) : changed(std::make_shared<asio::steady_timer>(loop.context())) {}
    std::optional<Result<io::HttpResponse>> result;
    std::shared_ptr<asio::steady_timer> changed;
  };
  // Also when the coroutine is cancelled.
  struct Waiting {
    using Timer = std::shared_ptr<asio::steady_timer>;
    Waiting(std::set<Timer>& waiters, Timer timer) : all(waiters), own(std::move(timer)) { all.insert(own); }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    ~Waiting() { all.erase(own); }
    std::set<Timer>& all;
    Timer own;
  };
  static io::Task<void> perform(std::shared_ptr<Exchange> exchange, io::Loop& loop, io::HttpCall call) {
    auto result = co_await io::http_call(loop, std::move(call));
    exchange->result = std::move(result);
    exchange->changed->cancel();
    co_return Status{};
  }

  io::Task<io::HttpResponse> pass_on(const io::HttpRequest& request, std::string server) {
    io::HttpCall call;
    call.server = server;
    call.method = request.method;
    call.target = request.target;
    call.headers = without_those_of_connection(request.headers);
    call.headers.emplace_back("X-Dirigent-Forwarded", std::to_string(role_.group_view().self));
    call.body = request.body;
    call.timeout = kForwardTimeout;
    auto exchange = std::make_shared<Exchange>(role_.loop());
    role_.tasks().spawn(perform(exchange, role_.loop(), std::move(call)));
    const Waiting waiting(role_.leader_waiters(), exchange->changed);
    const Term term = role_.group_view().term;
    std::optional<Instant> give_up;
    while (!exchange->result && !role_.stopping()) {
      const Instant now = io::Loop::now();
      if (!give_up && role_.group_view().term != term) give_up = now + kLastWords;
      if (give_up && now >= *give_up) break;
      exchange->changed->expires_after(give_up ? *give_up - now : kForwardTimeout);
      std::error_code woken;
      co_await exchange->changed->async_wait(asio::redirect_error(use_task, woken));
    }
    if (!exchange->result) co_return failure(ErrorCode::unavailable, "the leader at {} was replaced before it answered", server);
    auto response = std::move(*exchange->result);
    if (!response) co_return failure(response.error().within(fmt::format("the leader at {} did not answer", server)));
    response->headers = without_those_of_connection(response->headers);
    co_return std::move(*response);
  }

  Answer about_group(io::HttpRequest request, std::string path) {
    if (path == "/v1/control") {
      if (request.method != "GET") co_return problem(405, "method-not-allowed", "/v1/control is read only", "members: POST /v1/control/members, DELETE /v1/control/members/ID", false);
      co_return io::json_response(200, members_json(role_.group_view()));
    }
    Status done;
    if (path == "/v1/control/hand-over" && request.method == "POST") {
      done = co_await role_.hand_over();
    } else if (path == "/v1/control/members" && request.method == "POST") {
      const json body = json::parse(request.body, nullptr, false);
      if (!body.is_object() || !body.contains("member") || !body["member"].is_string()) {
        co_return problem(400, "invalid-argument", "the body names no member", "{\"member\": \"ID=HOST:PORT\"}", false);
      }
      done = co_await role_.add_peer(body["member"].get<std::string>());
    } else if (path.starts_with("/v1/control/members/") && request.method == "DELETE") {
      const auto id = parse_integer(path.substr(std::string_view("/v1/control/members/").size()));
      if (!id || *id < 1 || *id > 0x7fffffff) co_return problem(400, "invalid-argument", "the path names no member", "DELETE /v1/control/members/3", false);
      done = co_await role_.remove_peer(static_cast<std::uint32_t>(*id));
    } else {
      co_return problem(404, "not-found", fmt::format("there is no {} {}", request.method, path), "see docs/api.md", false);
    }
    if (!done) co_return problem(done.error());
    co_return io::json_response(200, members_json(role_.group_view()));
  }

  ControlRoleImpl& role_;
  Port port_;
  io::HttpHandler local_;
};

}  // namespace

io::HttpHandler answer_anywhere(ControlRoleImpl& role, Port port, io::HttpHandler local) {
  auto front = std::make_shared<Front>(role, port, std::move(local));
  return [front](io::HttpRequest request) { return front->answer(std::move(request)); };
}

}  // namespace dirigent::roles
