// SPDX-License-Identifier: MIT
#include <asio/co_spawn.hpp>

#include "catch.h"
#include "dirigent/io/http.h"
#include "dirigent/roles/data_role.h"
#include "dirigent/rpc/cluster.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

// A control plane that notes what it is told and routes one function.
class FakeControl final : public rpc::ControlHandler {
 public:
  FakeControl(io::Loop& loop, std::string sandbox) : sandbox_(std::move(sandbox)) {
    rpc::ControlServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.term = Term{1};
    server_ = std::move(*rpc::serve_control(loop, options, *this));
  }
  Status worker_joined(SessionId, WorkerHello) override { return {}; }
  void worker_said(SessionId, std::vector<WorkerMessage>) override {}
  void worker_lost(SessionId, std::string) override {}
  Status data_plane_joined(SessionId session, DataPlaneHello hello) override {
    session_ = session;
    hello_ = std::move(hello);
    ++joins_;
    return {};
  }
  void data_plane_said(SessionId, std::vector<DataPlaneMessage> messages) override {
    for (const auto& message : messages) {
      if (std::holds_alternative<FunctionLoad>(message)) loads_.push_back(std::get<FunctionLoad>(message));
      if (std::holds_alternative<DataPlaneHeartbeat>(message)) ++heartbeats_;
      if (std::holds_alternative<DataPlaneLeaving>(message)) has_left_ = true;
    }
  }
  void data_plane_lost(SessionId, std::string) override { ++losses_; }

  void route(bool with_sandbox) {
    RouteUpdate update;
    update.term = Term{1};
    update.complete = true;
    FunctionRoute route;
    route.function = FunctionName{"f"};
    route.revision = RevisionNumber{1};
    route.version = RouteVersion{++version_};
    if (with_sandbox) {
      RoutedSandbox sandbox;
      sandbox.id = SandboxId{1};
      sandbox.node = NodeId{"node1"};
      sandbox.address.direct = sandbox_;
      route.sandboxes.push_back(sandbox);
    }
    update.functions.push_back(route);
    server_->send(session_, update);
  }

  std::string sandbox_;
  std::unique_ptr<rpc::ControlServer> server_;
  SessionId session_{};
  DataPlaneHello hello_;
  std::uint64_t version_ = 0;
  int joins_ = 0;
  int losses_ = 0;
  int heartbeats_ = 0;
  bool has_left_ = false;
  std::vector<FunctionLoad> loads_;
};

// Looks on the loop's thread until it is so.
bool eventually(io::Loop& loop, std::function<bool()> condition) {
  const Instant deadline = io::Loop::now() + 10s;
  while (io::Loop::now() < deadline) {
    std::promise<bool> seen;
    loop.post([&] { seen.set_value(condition()); });
    if (seen.get_future().get()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace

TEST_CASE("data role: joins, learns routes, reports demand at once, and says when it leaves") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("hello")));
  io::Loop loop;
  FakeControl control(loop, sandbox.address());
  roles::DataRoleOptions options;
  options.listen = "127.0.0.1:0";
  options.admin_listen = "127.0.0.1:0";
  options.shards = 1;
  options.id = DataPlaneId{"data-1"};
  options.host_id = "here";
  options.version = "1.2.3";
  options.control = {control.server_->address().text};
  auto started = roles::DataRole::start(loop, options);
  REQUIRE(started.has_value());
  auto role = std::move(*started);
  std::thread thread([&] { loop.run(); });

  CHECK(eventually(loop, [&] { return control.joins_ == 1; }));
  CHECK(control.hello_.id == DataPlaneId{"data-1"});
  CHECK(control.hello_.invoke_address == role->address());
  CHECK(control.hello_.host_id == "here");
  CHECK(fetch(role->admin_address(), get("/healthz")).status == 200);
  CHECK(fetch(role->admin_address(), get("/readyz")).status == 503);
  const Response early = fetch(role->address(), get("/", "f"));
  CHECK(early.status == 503);
  CHECK(early.header("X-Dirigent-Reason") == "no-capacity");

  loop.post([&] { control.route(false); });
  CHECK(eventually(loop, [&] { return role->ready(); }));
  CHECK(fetch(role->admin_address(), get("/readyz")).status == 200);
  Wire parked = Wire::connect(role->address());
  parked.write(get("/", "f"));
  CHECK(eventually(loop, [&] { return !control.loads_.empty() && control.loads_.back().waiting == 1; }));
  loop.post([&] { control.route(true); });
  const Response response = read_response(parked);
  CHECK(response.body == "hello");
  CHECK(response.header("Server-Timing").starts_with("cold;desc=\"node1\""));

  const std::string metrics = fetch(role->admin_address(), get("/metrics")).body;
  CHECK(metrics.find("dirigent_requests_total{fn=\"f\",ns=\"default\",rev=\"f-00001\",code=\"200\",reason=\"\"} 1\n") !=
        std::string::npos);
  CHECK(metrics.find("dirigent_request_seconds_count{fn=\"f\",ns=\"default\",rev=\"f-00001\",cold=\"yes\"} 1\n") !=
        std::string::npos);
  CHECK(metrics.find("dirigent_build_info{version=\"1.2.3\"} 1\n") != std::string::npos);
  CHECK(fetch(role->admin_address(), get("/nothing")).status == 404);
  CHECK(metrics.find("dirigent_access_log_dropped_total 0\n") != std::string::npos);
  CHECK(control.hello_.admin_address == role->admin_address());

  const std::string id = response.header("X-Call-Id");
  const Response calls = fetch(role->admin_address(), get("/v1/calls?id=" + id));
  CHECK(calls.status == 200);
  CHECK(calls.body.starts_with("{\"calls\":[{\"call_id\":\"" + id + "\",\"function\":\"f\",\"revision\":\"f-00001\","));
  CHECK(calls.body.find("\"node\":\"node1\",\"reason\":\"\",\"status\":200,\"cold\":true") != std::string::npos);
  CHECK(fetch(role->admin_address(), get("/v1/calls?id=nobody")).body.starts_with("{\"calls\":[],\"cursor\":\""));
  CHECK(fetch(role->admin_address(), get("/v1/calls?limit=x")).status == 400);
  const Response recent = fetch(role->admin_address(), get("/v1/recent?window_ms=60000"));
  CHECK(recent.status == 200);
  CHECK(recent.body.find("\"name\":\"f\",\"revision\":\"f-00001\"") != std::string::npos);
  CHECK(recent.body.find("\"cold\":1") != std::string::npos);
  CHECK(fetch(role->admin_address(), get("/v1/recent?window_ms=0")).status == 400);

  // Without a control plane the routes stay, and a new session is told every load again.
  loop.post([&] { control.server_->disconnect(control.session_, "for a test"); });
  CHECK(eventually(loop, [&] { return control.losses_ == 1; }));
  CHECK(fetch(role->address(), get("/", "f")).body == "hello");
  CHECK(eventually(loop, [&] { return control.joins_ == 2; }));
  CHECK(eventually(loop, [&] { return control.heartbeats_ > 0; }));

  std::promise<void> stopped;
  loop.post([&] {
    asio::co_spawn(loop.context().get_executor(), role->stop(1s), [&](std::exception_ptr) { stopped.set_value(); });
  });
  stopped.get_future().get();
  CHECK(eventually(loop, [&] { return control.has_left_; }));
  CHECK_THROWS(Wire::connect(role->address()));
  loop.post([&] {
    control.server_->close();
    loop.stop();
  });
  thread.join();
}

TEST_CASE("data role: wrong options are refused by name") {
  io::Loop loop;
  roles::DataRoleOptions options;
  options.listen = "127.0.0.1:0";
  options.limits.headers_max = 1000;
  auto started = roles::DataRole::start(loop, options);
  REQUIRE_FALSE(started.has_value());
  CHECK(started.error().message.find("limits.headers_max") != std::string::npos);
  options.limits.headers_max = 100;
  options.listen = "nonsense";
  started = roles::DataRole::start(loop, options);
  REQUIRE_FALSE(started.has_value());
  CHECK(started.error().message.find("nonsense") != std::string::npos);
}
