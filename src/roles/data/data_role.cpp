// SPDX-License-Identifier: MIT
#include "dirigent/roles/data_role.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "dirigent/io/http.h"
#include "dirigent/roles/worker_role.h"
#include "dirigent/rpc/cluster.h"
#include "roles/data/async_api.h"
#include "roles/data/calls_api.h"
#include "roles/data/data_plane.h"
#include "roles/link_metrics.h"

namespace dirigent::roles {

namespace {

constexpr Duration kHeartbeatInterval = 1s;
constexpr Duration kLeaveTimeout = 500ms;  // for the last messages to reach the control plane

std::uint32_t usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1U, static_cast<std::uint32_t>(CPU_COUNT(&set)));
}

Status check(const DataRoleOptions& options) {
  const auto invalid = [](std::string_view what) { return failure(ErrorCode::invalid_argument, "{}", what); };
  const DataLimits& limits = options.limits;
  if (limits.head_max < 1_KiB || limits.head_max > 1_MiB) return invalid("limits.head_max: must be 1KiB to 1MiB");
  if (limits.headers_max < 1 || limits.headers_max > 256) return invalid("limits.headers_max: must be 1 to 256");
  if (limits.target_max < Bytes{16} || limits.target_max > limits.head_max) {
    return invalid("limits.target_max: must be 16 bytes to limits.head_max");
  }
  if (limits.connections_max < 1 || limits.connections_max > 10'000'000) {
    return invalid("limits.connections_max: must be 1 to 10000000");
  }
  if (limits.streams_max < 1 || limits.streams_max > 100'000) return invalid("limits.streams_max: must be 1 to 100000");
  if (limits.memory_max < 1_MiB) return invalid("limits.memory_max: must be at least 1MiB");
  if (limits.body_rate_min.value < 0 || limits.body_max.value < 0) {
    return invalid("limits.body_rate_min, limits.body_max: must not be negative");
  }
  for (const Duration duration : {limits.head_timeout, limits.body_timeout, limits.keep_alive_timeout,
                                  limits.sandbox_keep_alive, limits.connect_timeout}) {
    if (duration <= Duration::zero() || duration > 24h) return invalid("limits: a timeout must be above 0 and at most 24h");
  }
  return {};
}

class DataRoleImpl final : public DataRole, public rpc::DataPlaneHandler {
 public:
  DataRoleImpl(io::Loop& main, DataRoleOptions options)
      : main_(main), options_(std::move(options)), heartbeat_(main, [this] { beat(); }) {}
  ~DataRoleImpl() override { ASSERT(!plane_ || stopped_, "the data role is destroyed without having been stopped"); }

  Status open();
  void abandon() {
    if (plane_) plane_->abandon();
    stopped_ = true;
  }

  [[nodiscard]] std::string address() const override { return plane_->address(); }
  [[nodiscard]] std::string admin_address() const override { return admin_ ? admin_->address() : std::string(); }
  [[nodiscard]] std::string poll_address() const override { return poll_ ? poll_->address() : std::string(); }
  [[nodiscard]] bool ready() const override { return plane_->has_routes() && !plane_->draining() && !stopping_; }
  io::Action stop(Duration drain) override;

  // --- the control plane's side
  DataPlaneHello hello() override {
    DataPlaneHello hello;
    // Unique per data plane also when the system chose the port.
    hello.id = options_.id.empty() ? DataPlaneId{fmt::format("{}-{}", machine_node_id(), plane_->address())} : options_.id;
    hello.invoke_address = options_.invoke_address.empty() ? plane_->address() : options_.invoke_address;
    hello.admin_address = admin_address();
    hello.host_id = options_.host_id;
    hello.version = options_.version;
    hello.shares = plane_->begin_session();
    return hello;
  }
  void joined(Term term) override {
    log_info("data", "joined the control plane, term {}", term);
    plane_->report_all();
    heartbeat_.arm(io::Loop::now() + kHeartbeatInterval);
  }
  void ordered(std::vector<DataPlaneOrder> orders) override {
    for (const DataPlaneOrder& order : orders) plane_->apply(std::get<RouteUpdate>(order));
  }
  void lost(std::string why) override {
    log_warn("data", "lost the control plane: {} (routes stay as they are)", why);
    heartbeat_.arm(std::nullopt);
  }

 private:
  void beat() {
    if (!client_ || client_->state() != rpc::LinkState::joined) return;
    DataPlaneHeartbeat heartbeat;
    heartbeat.requests_in_flight = plane_->in_flight();
    client_->send(heartbeat);
    heartbeat_.arm(io::Loop::now() + kHeartbeatInterval);
  }
  io::Action handle_admin(io::HttpRequest request, io::HttpResponse& response);
  io::Action show_calls(const io::HttpRequest& request, io::HttpResponse& response);
  io::Action show_recent(const io::HttpRequest& request, io::HttpResponse& response);

  io::Loop& main_;
  DataRoleOptions options_;
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<io::HttpServer> admin_;
  std::unique_ptr<io::HttpServer> poll_;
  std::unique_ptr<rpc::DataPlaneClient> client_;
  io::WakeupTimer heartbeat_;
  bool stopping_ = false;
  bool stopped_ = false;
};

Status DataRoleImpl::open() {
  if (Status checked = check(options_); !checked) return checked;
  ProxyOptions proxy;
  proxy.listen = options_.listen;
  proxy.shards = options_.shards == 0 ? usable_cpus() : options_.shards;
  proxy.limits = options_.limits;
  proxy.balancer = options_.balancer;
  proxy.expose_timing = options_.expose_timing;
  proxy.host_id = options_.host_id;
  proxy.trusted_proxies = options_.trusted_proxies;
  proxy.access_log = options_.access_log;
  proxy.access_log_sample = options_.access_log_sample;
  proxy.calls_kept = options_.limits.calls_kept;
  proxy.async = options_.async;
  proxy.seed = options_.seed == 0 ? entropy_seed() : options_.seed;
  auto plane = DataPlane::open(main_, std::move(proxy), [this](std::vector<DataPlaneMessage> messages) {
    if (!client_) return;
    for (DataPlaneMessage& message : messages) client_->send(std::move(message));
  });
  if (!plane) return failure(plane.error());
  plane_ = std::move(*plane);

  if (!options_.admin_listen.empty()) {
    io::HttpServerOptions admin;
    admin.listen = options_.admin_listen;
    auto handler = [this](io::HttpRequest request)
        -> asio::awaitable<io::HttpResponse, asio::io_context::executor_type> {
      io::HttpResponse response;
      co_await handle_admin(std::move(request), response);
      co_return response;
    };
    auto server = io::serve_http(main_, std::move(admin), std::move(handler));
    if (!server) return failure(server.error());
    admin_ = std::move(*server);
  }
  if (!options_.async.poll_listen.empty() && plane_->async() != nullptr) {
    io::HttpServerOptions poll;
    poll.listen = options_.async.poll_listen;
    auto handler = [this](io::HttpRequest request)
        -> asio::awaitable<io::HttpResponse, asio::io_context::executor_type> {
      io::HttpResponse response;
      co_await handle_poll(*plane_->async(), std::move(request), response);
      co_return response;
    };
    auto server = io::serve_http(main_, std::move(poll), std::move(handler));
    if (!server) return failure(server.error().within("async_poll_listen"));
    poll_ = std::move(*server);
  }
  if (!options_.control.empty()) {
    rpc::ClientOptions client;
    for (const std::string& address : options_.control) client.control.push_back(rpc::Address{address});
    client_ = rpc::connect_data_plane(main_, std::move(client), *this);
  }
  return {};
}

io::Action DataRoleImpl::handle_admin(io::HttpRequest request, io::HttpResponse& response) {
  const std::string_view path = request.path();
  if (is_async_path(path)) {
    co_await handle_async(plane_->async(), std::move(request), response);
    co_return;
  }
  if (request.method != "GET" && request.method != "HEAD") {
    response = io::text_response(405, "only GET and HEAD are served here\n");
    response.headers.emplace_back("Allow", "GET, HEAD");
  } else if (path == "/healthz") {
    response = io::text_response(200, "ok\n");
  } else if (path == "/readyz") {
    const char* why = stopping_ || plane_->draining() ? "draining\n" : "no routes yet: waiting for a control plane\n";
    response = ready() ? io::text_response(200, "ready\n") : io::text_response(503, why);
  } else if (path == "/metrics") {
    auto snapshots = co_await plane_->snapshot();
    if (!snapshots) {
      response = io::text_response(503, snapshots.error().message + "\n");
      co_return;
    }
    std::string text = render_metrics(std::move(*snapshots), options_.limits.metric_functions_max, plane_->sandboxes(),
                                      options_.version);
    text += fmt::format("# HELP dirigent_access_log_dropped_total Lines of the access log that were lost.\n"
                        "# TYPE dirigent_access_log_dropped_total counter\ndirigent_access_log_dropped_total {}\n",
                        plane_->access_log_dropped());
    io::PrometheusWriter links;
    write_link_metrics(links, client_ ? client_->counters() : rpc::LinkCounters{}, "control");
    if (plane_->async() != nullptr) plane_->async()->write_metrics(links);
    text += links.take();
    response = io::text_response(200, std::move(text));
    for (auto& [name, value] : response.headers) {
      if (name == "Content-Type") value = "text/plain; version=0.0.4; charset=utf-8";
    }
  } else if (path == "/v1/calls") {
    co_await show_calls(request, response);
  } else if (path == "/v1/recent") {
    co_await show_recent(request, response);
  } else {
    response = io::text_response(404, "served here: /healthz, /readyz, /metrics, /v1/calls, /v1/recent, /v1/async, /v1/dlq\n");
  }
}

io::Action DataRoleImpl::show_calls(const io::HttpRequest& request, io::HttpResponse& response) {
  const auto wanted = parse_calls_query(request.query());
  if (!wanted) {
    response = io::text_response(400, wanted.error().message + "\n");
    co_return;
  }
  auto calls = co_await plane_->calls(wanted->query, wanted->after);
  response = calls ? io::json_response(200, calls_json(*calls, wanted->query.limit)) : io::text_response(503, calls.error().message + "\n");
}

io::Action DataRoleImpl::show_recent(const io::HttpRequest& request, io::HttpResponse& response) {
  const auto window = parse_recent_query(request.query());
  if (!window) {
    response = io::text_response(400, window.error().message + "\n");
    co_return;
  }
  auto recent = co_await plane_->recent(*window);
  auto loads = co_await plane_->snapshot();
  if (!recent || !loads) {
    response = io::text_response(503, "the data plane has stopped\n");
    co_return;
  }
  response = io::json_response(200, recent_json(*recent, *loads, *window));
}

io::Action DataRoleImpl::stop(Duration drain) {
  plane_->announce_leaving();
  stopping_ = true;
  if (options_.leave_notice > Duration::zero()) {
    log_info("data", "serving for {} more, so that load balancers go elsewhere", format_duration(options_.leave_notice));
    co_await io::sleep_for(main_, options_.leave_notice);
  }
  heartbeat_.arm(std::nullopt);
  if (client_) {
    client_->send(DataPlaneLeaving{});
    if (client_->state() == rpc::LinkState::joined) heartbeat_.arm(io::Loop::now());
  }
  // It may be asked until the calls it tells of are closed.
  if (poll_) co_await poll_->close(100ms);
  co_await plane_->stop(drain);
  heartbeat_.arm(std::nullopt);
  if (client_) co_await client_->close(kLeaveTimeout);
  if (admin_) co_await admin_->close(100ms);
  stopped_ = true;
}

}  // namespace

Result<std::unique_ptr<DataRole>> DataRole::start(io::Loop& main, DataRoleOptions options) {
  auto role = std::make_unique<DataRoleImpl>(main, std::move(options));
  if (Status opened = role->open(); !opened) {
    role->abandon();
    return failure(opened.error());
  }
  log_info("data", "functions are invoked at http://{}", role->address());
  return std::unique_ptr<DataRole>(std::move(role));
}

}  // namespace dirigent::roles
