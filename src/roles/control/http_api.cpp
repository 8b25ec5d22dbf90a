// SPDX-License-Identifier: MIT
#include "roles/control/http_api.h"

#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <exception>
#include <span>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "roles/control/function_json.h"
#include "roles/control/problem_answer.h"
#include "roles/control/view_json.h"

namespace dirigent::roles {

namespace {

using Answer = asio::awaitable<io::HttpResponse, asio::io_context::executor_type>;
using Query = std::vector<std::pair<std::string, std::string>>;

// A long poll holds a connection; clients repeat it.
constexpr std::int64_t kEventWaitMsMax = 60'000;
constexpr std::int64_t kLogLinesMax = 10'000;
constexpr std::uint32_t kLogLinesDefault = 100;
// About half a millisecond of work.
constexpr std::size_t kFunctionsPerTurn = 32;

// What absent fields of a registration mean here. (Registrations by form start from the operator's profile.)
const ScalingProfile& native_profile() {
  static const ScalingProfile profile = *scaling_profile("latency");
  return profile;
}

// --- answers --------------------------------------------------------------------------------------------------------

io::HttpResponse wrong_method(std::string_view method, std::string_view path, std::string_view allowed) {
  auto response = problem(405, "method-not-allowed", fmt::format("{} is not possible on {}", method, path),
                          fmt::format("allowed: {}", allowed));
  response.headers.emplace_back("Allow", allowed);
  return response;
}

io::HttpResponse no_such_path(std::string_view path) {
  return problem(404, "not-found", fmt::format("there is nothing at {}", path),
                 "try /v1/functions, /v1/nodes, /v1/data-planes, /v1/cluster, /healthz, /readyz or /metrics");
}

// --- requests -------------------------------------------------------------------------------------------------------

Result<Query> read_query(const io::HttpRequest& request, const std::vector<std::string>& known) {
  auto query = io::parse_form(request.query());
  if (!query) return failure(ErrorCode::invalid_argument, "the query cannot be read: {}", query.error().message);
  for (const auto& [name, value] : *query) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return failure(ErrorCode::invalid_argument, "unknown query parameter \"{}\"{}", name, did_you_mean_suffix(name, known));
    }
  }
  return query;
}

std::optional<std::string> last_of(const Query& query, std::string_view name) {
  const auto found = std::find_if(query.rbegin(), query.rend(), [&](const auto& pair) { return pair.first == name; });
  return found == query.rend() ? std::nullopt : std::optional(found->second);
}

Result<std::int64_t> number_of(const Query& query, std::string_view name, std::int64_t absent, std::int64_t low, std::int64_t high) {
  const auto text = last_of(query, name);
  if (!text) return absent;
  const auto number = parse_integer(*text);
  if (!number || *number < low || *number > high) {
    return failure(ErrorCode::invalid_argument, "query parameter \"{}\" is \"{}\", expected a whole number in {}..{}", name, *text, low, high);
  }
  return *number;
}

Result<bool> switch_of(const Query& query, std::string_view name, bool absent) {
  const auto text = last_of(query, name);
  if (!text) return absent;
  if (*text == "1" || *text == "true") return true;
  if (*text == "0" || *text == "false") return false;
  return failure(ErrorCode::invalid_argument, "query parameter \"{}\" is \"{}\", expected 0 or 1", name, *text);
}

// The newest revision names the state of a function for If-Match; created_at tells a function from its namesake that
// was deleted before.
std::string etag_of(const Function& function) {
  const std::uint32_t newest = function.revisions.empty() ? 0 : function.revisions.back().number.value;
  return fmt::format("\"{:x}-{}\"", function.created_at.time_since_epoch().count(), newest);
}

bool lists_etag(std::string_view header, std::string_view etag) {
  for (const auto part : split(header, ',')) {
    auto candidate = trim(part);
    if (candidate.starts_with("W/")) candidate.remove_prefix(2);
    if (candidate == "*" || candidate == etag) return true;
  }
  return false;
}

class Api {
 public:
  explicit Api(ControlService& service) : service_(service) {}

  Answer answer(io::HttpRequest request) {
    const std::string path(request.path());
    if (path == "/healthz" || path == "/readyz" || path == "/metrics") co_return health(request, path);
    std::vector<std::string> parts;
    for (const auto part : split(std::string_view(path).substr(path.starts_with('/') ? 1 : 0), '/')) {
      auto decoded = io::percent_decode(part, false);
      if (!decoded) co_return problem(400, "invalid-argument", fmt::format("{} has an invalid % escape", path));
      parts.push_back(std::move(*decoded));
    }
    if (parts.size() < 2 || parts[0] != "v1") co_return no_such_path(path);
    if (parts[1] == "functions") co_return co_await functions(std::move(request), std::move(parts));
    if (parts[1] == "nodes") co_return co_await nodes(request, parts);
    if (parts.size() == 2 && parts[1] == "prefetch") co_return prefetch(request);
    if (parts.size() == 2 && (parts[1] == "data-planes" || parts[1] == "cluster")) co_return cluster(request, parts[1]);
    co_return no_such_path(path);
  }

 private:
  io::HttpResponse health(const io::HttpRequest& request, std::string_view path) {
    if (request.method != "GET" && request.method != "HEAD") return wrong_method(request.method, path, "GET, HEAD");
    if (path == "/healthz") return io::text_response(200, "ok\n");
    if (path == "/readyz") {
      if (service_.cluster().leader) return io::text_response(200, "ready\n");
      return io::text_response(503, "not the leader\n");
    }
    auto response = io::text_response(200, service_.metrics());
    for (auto& [name, value] : response.headers) {
      if (to_lower(name) == "content-type") value = "text/plain; version=0.0.4; charset=utf-8";
    }
    return response;
  }

  std::string invoke_address() {
    const auto planes = service_.data_planes();
    return planes.empty() ? std::string() : planes.front().invoke_address;
  }

  io::HttpResponse function_problem(const Error& error, const FunctionName& name) {
    if (error.code != ErrorCode::not_found) return problem(error);
    std::vector<std::string> names;
    for (const auto& known : service_.names()) names.push_back(known.value);
    const auto near = did_you_mean(name.value, names);
    return problem(error, near ? fmt::format("did you mean \"{}\"?", *near) : "list them with GET /v1/functions");
  }

  Answer functions(io::HttpRequest request, std::vector<std::string> parts) {
    const std::string path(request.path());
    if (parts.size() == 2) co_return co_await collection(std::move(request));
    auto name = parse_function_name(parts[2]);
    if (!name) co_return problem(name.error());
    if (parts.size() == 3) co_return co_await function(std::move(request), std::move(*name));
    if (parts.size() != 4) co_return no_such_path(path);
    const std::string& verb = parts[3];
    if (verb == "scale") {
      if (request.method != "POST") co_return wrong_method(request.method, path, "POST");
      co_return co_await scale(std::move(request), std::move(*name));
    }
    if (verb == "events" || verb == "logs") {
      if (request.method != "GET") co_return wrong_method(request.method, path, "GET");
      if (verb == "events") co_return co_await events(std::move(request), std::move(*name));
      co_return co_await logs(std::move(request), std::move(*name));
    }
    if (verb == "explain") {
      if (request.method != "GET") co_return wrong_method(request.method, path, "GET");
      if (auto query = read_query(request, {}); !query) co_return problem(query.error());
      auto lines = service_.explain(*name);
      if (!lines) co_return function_problem(lines.error(), *name);
      co_return io::json_response(200, explanation_json(*name, *lines));
    }
    co_return problem(404, "not-found", fmt::format("there is nothing at {}", path), "a function has /scale, /events, /logs and /explain");
  }

  Answer collection(io::HttpRequest request) {
    if (request.method == "POST") co_return co_await deploy(std::move(request), std::nullopt);
    if (request.method != "GET") co_return wrong_method(request.method, request.path(), "GET, POST");
    auto query = read_query(request, {"names_only", "summary"});
    if (!query) co_return problem(query.error());
    auto names_only = switch_of(*query, "names_only", false);
    if (!names_only) co_return problem(names_only.error());
    if (*names_only) co_return io::json_response(200, names_json(service_.names()));
    auto summary = switch_of(*query, "summary", false);
    if (!summary) co_return problem(summary.error());
    co_return co_await list(*summary);
  }

  // Ten thousand functions take longer than a decision may wait: the loop gets its turn in between. What is deleted
  // meanwhile is left out.
  Answer list(bool is_summary) {
    const std::vector<FunctionName> names = service_.names();
    ListText text(invoke_address(), is_summary, names.size());
    std::size_t since_turn = 0;
    for (const FunctionName& name : names) {
      if (const auto view = service_.describe(name)) text.add(*view);
      if (++since_turn < kFunctionsPerTurn) continue;
      since_turn = 0;
      constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
      co_await asio::post(co_await asio::this_coro::executor, use_task);
    }
    co_return io::json_response(200, text.take());
  }

  Answer function(io::HttpRequest request, FunctionName name) {
    if (request.method == "PUT") co_return co_await deploy(std::move(request), std::move(name));
    if (request.method != "GET" && request.method != "PATCH" && request.method != "DELETE") {
      co_return wrong_method(request.method, request.path(), "GET, PUT, PATCH, DELETE");
    }
    if (request.method != "PATCH") {
      if (auto query = read_query(request, {}); !query) co_return problem(query.error());
    }
    auto view = service_.describe(name);
    if (!view) co_return function_problem(view.error(), name);
    const std::string etag = etag_of(view->function);
    if (auto refused = check_if_match(request, etag)) co_return std::move(*refused);
    if (request.method == "PATCH") co_return co_await patch(std::move(request), std::move(view->function));
    if (request.method == "DELETE") {
      auto removed = co_await service_.remove(name);
      if (!removed) co_return function_problem(removed.error(), name);
      io::HttpResponse gone;
      gone.status = 204;
      co_return gone;
    }
    io::HttpResponse response;
    if (const auto known = io::find_header(request.headers, "If-None-Match"); known && lists_etag(*known, etag)) {
      response.status = 304;
    } else {
      response = io::json_response(200, function_json(*view, invoke_address()));
    }
    response.headers.emplace_back("ETag", etag);
    co_return response;
  }

  std::optional<io::HttpResponse> check_if_match(const io::HttpRequest& request, std::string_view etag) {
    const auto wanted = io::find_header(request.headers, "If-Match");
    if (!wanted || lists_etag(*wanted, etag)) return std::nullopt;
    return problem(412, "stale", fmt::format("the function is at {}, If-Match says {}", etag, *wanted), "read it again, then repeat the change");
  }

  // The last steps of a registration: ask the role, print what became of it.
  Answer perform(DeployRequest request, int fresh_status) {
    const FunctionName name = request.name;
    auto deployed = co_await service_.deploy(std::move(request));
    if (!deployed) co_return function_problem(deployed.error(), name);
    const bool first = deployed->function.revisions.size() == 1 && deployed->changed;
    auto response = io::json_response(first ? fresh_status : 200, deployed_json(*deployed, invoke_address()));
    response.headers.emplace_back("ETag", etag_of(deployed->function));
    response.headers.emplace_back("Location", fmt::format("/v1/functions/{}", name));
    co_return response;
  }

  // POST creates, PUT creates or replaces.
  Answer deploy(io::HttpRequest request, std::optional<FunctionName> name) {
    auto query = read_query(request, {"create_only", "verify"});
    if (!query) co_return problem(query.error());
    const bool is_post = !name.has_value();
    auto create_only = switch_of(*query, "create_only", is_post);
    if (!create_only) co_return problem(create_only.error());
    auto verify = switch_of(*query, "verify", true);
    if (!verify) co_return problem(verify.error());
    auto deploy_request = decode_deploy(request.body, name, native_profile());
    if (!deploy_request) co_return problem(deploy_request.error(), "the fields are listed in docs/api.md");
    const auto none_match = io::find_header(request.headers, "If-None-Match");
    deploy_request->create_only = *create_only || (none_match && trim(*none_match) == "*");
    deploy_request->verify = *verify;
    if (io::find_header(request.headers, "If-Match")) {
      auto view = service_.describe(deploy_request->name);
      const std::string etag = view ? etag_of(view->function) : "absent";
      if (auto refused = check_if_match(request, etag)) co_return std::move(*refused);
      if (!view) co_return problem(412, "stale", "the function does not exist, If-Match wants it to");
    }
    DeployRequest order = std::move(*deploy_request);
    co_return co_await perform(std::move(order), 201);
  }

  Answer patch(io::HttpRequest request, Function function) {
    auto query = read_query(request, {"verify"});
    if (!query) co_return problem(query.error());
    auto verify = switch_of(*query, "verify", true);
    if (!verify) co_return problem(verify.error());
    const RevisionSpec base = function.revisions.empty() ? RevisionSpec{} : function.revisions.back().spec;
    auto spec = decode_patch(request.body, base, native_profile());
    if (!spec) co_return problem(spec.error(), "the fields are listed in docs/api.md");
    DeployRequest order;
    order.name = function.name;
    order.spec = std::move(*spec);
    order.verify = *verify;
    co_return co_await perform(std::move(order), 200);
  }

  Answer scale(io::HttpRequest request, FunctionName name) {
    if (auto query = read_query(request, {}); !query) co_return problem(query.error());
    auto wanted = decode_scale(request.body);
    if (!wanted) co_return problem(wanted.error());
    auto done = co_await service_.set_scale(name, *wanted);
    if (!done) co_return function_problem(done.error(), name);
    auto view = service_.describe(name);
    if (!view) co_return function_problem(view.error(), name);
    co_return io::json_response(200, function_json(*view, invoke_address()));
  }

  Answer events(io::HttpRequest request, FunctionName name) {
    auto query = read_query(request, {"after", "wait_ms"});
    if (!query) co_return problem(query.error());
    auto after = number_of(*query, "after", 0, 0, std::numeric_limits<std::int64_t>::max());
    if (!after) co_return problem(after.error());
    auto wait = number_of(*query, "wait_ms", 0, 0, kEventWaitMsMax);
    if (!wait) co_return problem(wait.error());
    const Duration patience = std::chrono::milliseconds(*wait);
    auto events = co_await service_.events(name, static_cast<std::uint64_t>(*after), patience);
    if (!events) co_return function_problem(events.error(), name);
    co_return io::json_response(200, events_json(*events));
  }

  Answer logs(io::HttpRequest request, FunctionName name) {
    auto query = read_query(request, {"lines", "sandbox"});
    if (!query) co_return problem(query.error());
    auto lines = number_of(*query, "lines", kLogLinesDefault, 1, kLogLinesMax);
    if (!lines) co_return problem(lines.error());
    std::optional<SandboxId> only;
    if (const auto text = last_of(*query, "sandbox")) {
      auto id = parse_sandbox_id(*text);
      if (!id) co_return problem(id.error().within("query parameter \"sandbox\""));
      only = *id;
    }
    auto log = co_await service_.logs(name, only, static_cast<std::uint32_t>(*lines));
    if (!log) co_return function_problem(log.error(), name);
    co_return io::json_response(200, logs_json(*log));
  }

  Answer nodes(io::HttpRequest request, std::vector<std::string> parts) {
    const std::string_view path = request.path();
    if (auto query = read_query(request, {}); !query) co_return problem(query.error());
    if (parts.size() == 2) {
      if (request.method != "GET") co_return wrong_method(request.method, path, "GET");
      co_return io::json_response(200, nodes_json(service_.nodes()));
    }
    static const std::map<std::string, NodeUse> kVerbs{{"cordon", NodeUse::cordoned}, {"drain", NodeUse::drained}, {"uncordon", NodeUse::open}};
    const auto verb = parts.size() == 4 ? kVerbs.find(parts[3]) : kVerbs.end();
    if (verb == kVerbs.end()) {
      co_return problem(404, "not-found", fmt::format("there is nothing at {}", path), "a node has /cordon, /drain and /uncordon");
    }
    if (request.method != "POST") co_return wrong_method(request.method, path, "POST");
    auto id = parse_node_id(parts[2]);
    if (!id) co_return problem(id.error());
    if (auto status = co_await service_.set_node_use(*id, verb->second); !status) {
      std::vector<std::string> names;
      for (const auto& node : service_.nodes()) names.push_back(node.info.id.value);
      const auto near = did_you_mean(id->value, names);
      co_return problem(status.error(), near ? fmt::format("did you mean \"{}\"?", *near) : "list them with GET /v1/nodes");
    }
    co_return io::json_response(200, nodes_json(service_.nodes()));
  }

  // {"image": "...", "node": "..."}; without a node, all that take new sandboxes. The answer names those that were asked.
  io::HttpResponse prefetch(const io::HttpRequest& request) {
    if (request.method != "POST") return wrong_method(request.method, request.path(), "POST");
    if (auto query = read_query(request, {}); !query) return problem(query.error());
    auto wanted = decode_prefetch(request.body);
    if (!wanted) return problem(wanted.error());
    auto asked = service_.prefetch(wanted->image, wanted->node);
    if (!asked) return problem(asked.error(), "list them with GET /v1/nodes");
    return io::json_response(200, node_names_json(*asked));
  }

  io::HttpResponse cluster(const io::HttpRequest& request, std::string_view what) {
    if (request.method != "GET") return wrong_method(request.method, request.path(), "GET");
    if (auto query = read_query(request, {}); !query) return problem(query.error());
    if (what == "cluster") return io::json_response(200, cluster_json(service_.cluster()));
    return io::json_response(200, data_planes_json(service_.data_planes()));
  }

  ControlService& service_;
};

}  // namespace

io::HttpHandler make_api(ControlService& service) {
  auto api = std::make_shared<Api>(service);
  return [api](io::HttpRequest request) { return api->answer(std::move(request)); };
}

}  // namespace dirigent::roles
