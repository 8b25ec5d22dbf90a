// SPDX-License-Identifier: MIT
#include "catch.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

TEST_CASE("shards: two share a sandbox's slots, and its limit is never exceeded") {
  Plane plane([](roles::ProxyOptions& options) { options.shards = 2; });
  FakeSandbox narrow(FakeSandbox::answering(ok("narrow")));
  plane.route("narrow", {narrow.address()}, [](FunctionRoute& route) { route.sandboxes.back().slots = 3; });
  std::atomic<int> answered{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] {
      Wire wire = Wire::connect(plane.address());
      for (int request = 0; request < 100; ++request) {
        wire.write(get("/", "narrow"));
        if (read_response(wire).body == "narrow") ++answered;
        if ((request + i) % 25 == 24) {
          // Leaves in the middle of a request, parked or in flight.
          Wire leaving = Wire::connect(plane.address());
          leaving.write(get("/", "narrow"));
        }
      }
    });
  }
  for (auto& client : clients) client.join();
  CHECK(answered == 1200);
  CHECK(narrow.active_max <= 3);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0 && plane.waiting() == 0; }));
  // Both shards had work: connections are spread by the kernel.
  int busy = 0;
  for (const auto& shard : plane.snapshot()) busy += shard.connections_accepted > 0 ? 1 : 0;
  CHECK(busy == 2);
}

TEST_CASE("shards: requests parked on either shard are all served when a sandbox comes, and none twice") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("served")));
  Plane plane([](roles::ProxyOptions& options) { options.shards = 2; });
  plane.route("f", {});
  std::vector<Wire> wires;
  for (int i = 0; i < 40; ++i) {
    wires.push_back(Wire::connect(plane.address()));
    wires.back().write(get("/", "f"));
  }
  REQUIRE(plane.eventually([&] { return plane.waiting() == 40; }));
  for (std::size_t i = 0; i < wires.size(); i += 4) wires[i].close();
  REQUIRE(plane.eventually([&] { return plane.waiting() == 30; }));
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.sandboxes.back().slots = 2; });
  for (std::size_t i = 0; i < wires.size(); ++i) {
    if (i % 4 != 0) CHECK(read_response(wires[i]).body == "served");
  }
  CHECK(sandbox.requests() == 30);
  CHECK(sandbox.active_max <= 2);
}

TEST_CASE("shards: a port that another data plane holds is refused, not shared") {
  Plane first([](roles::ProxyOptions& options) { options.shards = 2; });
  io::Loop loop;
  roles::ProxyOptions options;
  options.listen = first.address();
  options.shards = 2;
  const auto second = roles::DataPlane::open(loop, options, [](std::vector<DataPlaneMessage>) {});
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().message.find(first.address()) != std::string::npos);
}

TEST_CASE("shards: stopping with requests on every shard ends each of them") {
  Plane plane([](roles::ProxyOptions& options) { options.shards = 2; });
  plane.route("f", {});
  std::vector<Wire> wires;
  for (int i = 0; i < 16; ++i) {
    wires.push_back(Wire::connect(plane.address()));
    wires.back().write(get("/", "f"));
  }
  REQUIRE(plane.eventually([&] { return plane.waiting() == 16; }));
  plane.stop(Duration::zero());
  for (auto& wire : wires) {
    const Response response = read_response(wire);
    CHECK(response.status == 503);
    CHECK(response.header("X-Dirigent-Reason") == "draining");
  }
}

TEST_CASE("options: a trusted proxy that is no address is refused by name") {
  io::Loop loop;
  roles::ProxyOptions options;
  options.trusted_proxies = {"10.0.0.0/33"};
  const auto plane = roles::DataPlane::open(loop, options, [](std::vector<DataPlaneMessage>) {});
  REQUIRE_FALSE(plane.has_value());
  CHECK(plane.error().message.find("10.0.0.0/33") != std::string::npos);
}
