// SPDX-License-Identifier: MIT
//
// What travels over a session between two ends of cluster.h: messages, answers, logs.
#include "cluster_fixture.h"

namespace dirigent::rpc::test {
namespace {

TEST_CASE("link: a worker joins, speaks and is ordered") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  worker.me.sandboxes = {SandboxStatus{SandboxId{5}, FunctionName{"f"}, {}, {}, SandboxState::ready, {}, {}, {}, {}, {}}};
  const auto server = serve(loop, control);
  const auto client = connect_worker(loop, to(*server), worker);
  CHECK(client->state() == LinkState::connecting);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  CHECK(client->state() == LinkState::joined);
  CHECK(worker.term.value == 7);
  REQUIRE(control.workers.size() == 1);
  CHECK(control.workers.begin()->second.node.id.value == "node-1");
  CHECK(control.workers.begin()->second.sandboxes == worker.me.sandboxes);
  client->send(usage(3));
  server->send(control.last_worker, stop_order(9));
  CHECK(control.from_workers.empty());
  REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == 1 && worker.orders.size() == 1; }));
  CHECK(std::get<NodeHeartbeat>(control.from_workers[0]).usage.sandboxes == 3);
  CHECK(std::get<StopSandbox>(worker.orders[0]).id.value == 9);
}

TEST_CASE("link: a data plane joins, speaks and is given routes of any size") {
  io::Loop loop;
  FakeControl control;
  FakeDataPlane plane;
  const auto server = serve(loop, control);
  const auto client = connect_data_plane(loop, to(*server), plane);
  REQUIRE(turn_until(loop, [&] { return plane.joins == 1; }));
  client->send(SlotsReleased{SandboxId{4}, 1, 7});
  RouteUpdate update{Term{7}, 1, true, false, false, {}};
  for (int i = 0; i < 20'000; ++i) {
    FunctionRoute route;
    route.function.value = fmt::format("function-{}", i);
    route.sandboxes.resize(1);
    route.sandboxes[0].node.value = "node-1";
    update.functions.push_back(std::move(route));
  }
  server->send(control.last_data_plane, DataPlaneOrder{update});
  server->send(control.last_data_plane, DataPlaneOrder{RouteUpdate{Term{8}, 2, false, false, false, {}}});
  REQUIRE(turn_until(loop, [&] { return plane.orders.size() == 2 && control.from_data_planes.size() == 1; }));
  CHECK(std::get<RouteUpdate>(plane.orders[0]).functions.size() == 20'000);
  CHECK(std::get<RouteUpdate>(plane.orders[0]).functions.back().function.value == "function-19999");
  CHECK(std::get<RouteUpdate>(plane.orders[1]).term.value == 8);
  CHECK(std::get<SlotsReleased>(control.from_data_planes[0]).sandbox.value == 4);
}

TEST_CASE("link: ten thousand messages arrive in order, in far fewer calls, both ways") {
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  constexpr std::uint32_t kMessages = 10'000;
  for (std::uint32_t i = 0; i < kMessages; ++i) {
    client->send(usage(i));
    server->send(control.last_worker, stop_order(i));
    if (i % 100 == 0) loop.poll();
  }
  REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == kMessages && worker.orders.size() == kMessages; }));
  for (std::uint32_t i = 0; i < kMessages; ++i) {
    REQUIRE(std::get<NodeHeartbeat>(control.from_workers[i]).usage.sandboxes == i);
    REQUIRE(std::get<StopSandbox>(worker.orders[i]).id.value == i);
  }
  for (const auto& counters : {client->counters(), server->counters()}) {
    CHECK(counters.messages_sent == kMessages);
    CHECK(counters.messages_received == kMessages);
    CHECK(counters.batches_sent <= kMessages / 50);
    CHECK(counters.batches_received <= kMessages / 50);
  }
}

TEST_CASE("link: the answer to what was said travels with the next order, the second one at once, and one alone in the end") {
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  const auto answers = [&] { return client->counters().answer_times.count(); };
  const auto say = [&](std::uint32_t i) {
    client->send(usage(i));
    return turn_until(loop, [&] { return control.from_workers.size() == i; });
  };
  // It is written before the order, so whoever has the order has had it.
  REQUIRE(say(1));
  server->send(control.last_worker, stop_order(1));
  REQUIRE(turn_until(loop, [&] { return worker.orders.size() == 1; }));
  CHECK(answers() == 1);
  // Two calls at a time: neither answer may wait for an order that does not come.
  REQUIRE(say(2));
  REQUIRE(say(3));
  CHECK(turn_until(loop, [&] { return answers() == 3; }));
  REQUIRE(say(4));
  CHECK(turn_until(loop, [&] { return answers() == 4; }));
  CHECK(client->counters().messages_sent == 4);
}

TEST_CASE("link: a client that closes asks for the answer that waits") {
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  client->send(usage(1));
  REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == 1; }));
  // None yet, unless this machine was very slow in between.
  const auto before = client->counters().answer_times.count();
  await(loop, client->close(60s));
  CHECK(client->counters().batches_sent == 2 - before);
  CHECK(client->counters().answer_times.count() == client->counters().batches_sent);
  CHECK(control.from_workers.size() == 1);
}

TEST_CASE("link: orders sent while the worker is being accepted arrive after joined") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  std::unique_ptr<ControlServer> server;
  control.on_worker = [&](SessionId session) {
    server->send(session, stop_order(1));
    server->send(session, stop_order(2));
  };
  server = serve(loop, control);
  const auto client = connect_worker(loop, to(*server), worker);
  REQUIRE(turn_until(loop, [&] { return worker.orders.size() == 2; }));
  CHECK(worker.joins == 1);
  CHECK(std::get<StopSandbox>(worker.orders[0]).id.value == 1);
}

TEST_CASE("link: what is sent after the hello was taken is not lost") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const auto server = serve(loop, control);
  std::unique_ptr<WorkerClient> client;
  worker.on_hello = [&] { client->send(usage(1)); };
  client = connect_worker(loop, to(*server), worker);
  client->send(usage(0));  // before the hello: dropped
  REQUIRE(turn_until(loop, [&] { return !control.from_workers.empty(); }));
  CHECK(control.from_workers.size() == 1);
  CHECK(std::get<NodeHeartbeat>(control.from_workers[0]).usage.sandboxes == 1);
}

TEST_CASE("link: logs are asked for across the session") {
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  worker.answer.lines = {{1, false, "out"}, {2, true, "err"}};
  const auto answer = await(loop, server->logs(control.last_worker, LogQuery{SandboxId{6}, 50}, 5s));
  REQUIRE(answer);
  REQUIRE(answer->lines.size() == 2);
  CHECK(answer->lines[1].text == "err");
  REQUIRE(worker.queries.size() == 1);
  CHECK(worker.queries[0].sandbox.value == 6);
  CHECK(worker.queries[0].lines_max == 50);
  const auto unknown = await(loop, server->logs(SessionId{99}, LogQuery{}, 5s));
  REQUIRE(!unknown);
  CHECK(unknown.error().code == ErrorCode::not_found);
}

TEST_CASE("link: an answer with too many logs keeps the newest lines") {
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  for (int i = 0; i < 100; ++i) worker.answer.lines.push_back({i, false, std::string(1 << 20, 'x')});
  const auto answer = await(loop, server->logs(control.last_worker, LogQuery{}, 20s));
  REQUIRE(answer);
  CHECK(answer->lines.size() == 7);
  CHECK(answer->lines.back().time_us == 99);
}

}  // namespace
}  // namespace dirigent::rpc::test
