// SPDX-License-Identifier: MIT
//
// How a session between two ends of cluster.h begins and ends, and where.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "cluster_fixture.h"

namespace dirigent::rpc::test {
namespace {

TEST_CASE("link: a refused hello is repeated until it is accepted, and nobody is told of a loss") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  control.refusal = "not the leader";
  FakeWorker worker;
  FakeDataPlane plane;
  const auto server = serve(loop, control);
  const auto client = connect_worker(loop, to(*server), worker);
  const auto other = connect_data_plane(loop, to(*server), plane);
  REQUIRE(turn_until(loop, [&] { return control.hellos >= 4; }));
  CHECK(worker.joins == 0);
  CHECK(plane.joins == 0);
  control.refusal.clear();
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1 && plane.joins == 1; }));
  CHECK(worker.lost_why.empty());
  CHECK(control.lost.empty());
}

TEST_CASE("link: a client that speaks another protocol is refused with both numbers") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  worker.me.protocol = kProtocolVersion + 2;
  const auto server = serve(loop, control);
  const auto client = connect_worker(loop, to(*server), worker);
  REQUIRE(turn_until(loop, [&] { return worker.hellos >= 2; }));
  CHECK(control.hellos == 0);
  worker.me.protocol = kProtocolVersion + 1;
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
}

TEST_CASE("link: clients that are one protocol older or newer join and are heard") {
  QuietLog quiet;
  for (const int difference : {-1, 0, 1}) {
    CAPTURE(difference);
    io::Loop loop;
    FakeControl control;
    FakeWorker worker;
    FakeDataPlane plane;
    worker.me.protocol = static_cast<std::uint32_t>(static_cast<int>(kProtocolVersion) + difference);
    plane.me.protocol = worker.me.protocol;
    const auto server = serve(loop, control);
    const auto first = connect_worker(loop, to(*server), worker);
    const auto second = connect_data_plane(loop, to(*server), plane);
    REQUIRE(turn_until(loop, [&] { return worker.joins == 1 && plane.joins == 1; }));
    CHECK(control.lost.empty());
  }
}

TEST_CASE("link: of several control planes the one that accepts is found without a pause") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl follower;
  follower.refusal = "not the leader";
  FakeControl leader;
  FakeWorker worker;
  const auto gone = serve(loop, follower);
  const Address nobody = gone->address();
  gone->close();
  const auto first = serve(loop, follower);
  const auto second = serve(loop, leader);
  ClientOptions options{{nobody, Address{"not an address"}, first->address(), second->address()}, 1s, 3s};
  const Instant start = io::Loop::now();
  const auto client = connect_worker(loop, options, worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  CHECK(io::Loop::now() - start < 1s);
  CHECK(worker.hellos == 2);
  CHECK(leader.workers.size() == 1);
}

TEST_CASE("link: a refused client goes at once where the refusal points to, and hears the term of there") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl follower;
  follower.refusal = "not the leader";
  FakeControl leader;
  FakeWorker worker;
  FakeDataPlane plane;
  const auto first = serve(loop, follower);
  const auto second = serve(loop, leader);
  first->set_leader(Term{8}, second->address().text);
  second->set_leader(Term{9}, "");
  // The client knows one address only, and not the leader's.
  const auto client = connect_worker(loop, to(*first), worker);
  const auto other = connect_data_plane(loop, to(*first), plane);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1 && plane.joins == 1; }));
  CHECK(worker.hellos == 2);
  CHECK(worker.term == Term{9});
  CHECK(leader.workers.size() == 1);
}

TEST_CASE("link: control planes that point at each other do not keep a client busy") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl one;
  FakeControl two;
  one.refusal = two.refusal = "not the leader";
  FakeWorker worker;
  const auto first = serve(loop, one);
  const auto second = serve(loop, two);
  first->set_leader(Term{1}, second->address().text);
  second->set_leader(Term{1}, first->address().text);
  const Instant start = io::Loop::now();
  const auto client = connect_worker(loop, to(*first), worker);
  // Three hellos, then a pause of at least half of 50 ms; so twelve have at least three pauses between them.
  REQUIRE(turn_until(loop, [&] { return worker.hellos >= 12; }));
  CHECK(io::Loop::now() - start >= 75ms);
}

TEST_CASE("link: after a restart of the server the client joins again with a new hello") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  auto server = serve(loop, control);
  const Address address = server->address();
  const auto client = connect_worker(loop, to(*server), worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  server->close();
  server.reset();
  REQUIRE(turn_until(loop, [&] { return worker.lost_why.size() == 1; }));
  CHECK(control.lost.empty());  // close() calls nobody
  CHECK(client->state() == LinkState::connecting);
  worker.me.node.host = "moved";
  FakeControl successor;
  server = serve(loop, successor, address.text);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 2; }));
  REQUIRE(successor.workers.size() == 1);
  CHECK(successor.workers.begin()->second.node.host == "moved");
  client->send(usage(1));
  REQUIRE(turn_until(loop, [&] { return successor.from_workers.size() == 1; }));
}

TEST_CASE("link: a client may be started before its server") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  FakeDataPlane plane;
  Address address;
  {
    const auto probe = serve(loop, control);
    address = probe->address();
  }
  const auto client = connect_worker(loop, ClientOptions{{address}, 1s, 3s}, worker);
  const auto other = connect_data_plane(loop, ClientOptions{{address}, 1s, 3s}, plane);
  turn_for(loop, 100ms);
  const auto server = serve(loop, control, address.text);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1 && plane.joins == 1; }));
}

TEST_CASE("link: a client that goes is lost at once, after its last words") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const auto server = serve(loop, control);
  auto client = connect_worker(loop, to(*server), worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  for (std::uint32_t i = 0; i < 20'000; ++i) client->send(usage(i));
  client->send(WorkerLeaving{});
  await(loop, client->close(10s));
  client.reset();
  const Instant start = io::Loop::now();
  REQUIRE(turn_until(loop, [&] { return control.lost.size() == 1; }));
  CHECK(io::Loop::now() - start < 1s);
  REQUIRE(control.from_workers.size() == 20'001);
  CHECK(std::holds_alternative<WorkerLeaving>(control.from_workers.back()));
  CHECK(control.lost[0] == "the peer closed the connection");
  CHECK(worker.lost_why.empty());
}

TEST_CASE("link: both ends may vanish with messages queued and calls in flight") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  FakeDataPlane plane;
  auto server = serve(loop, control);
  auto client = connect_worker(loop, to(*server), worker);
  auto other = connect_data_plane(loop, to(*server), plane);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1 && plane.joins == 1; }));
  for (std::uint32_t i = 0; i < 50'000; ++i) {
    client->send(usage(i));
    other->send(DataPlaneHeartbeat{i});
    server->send(control.last_worker, stop_order(i));
    server->send(control.last_data_plane, DataPlaneOrder{RouteUpdate{Term{i}, i, false, false, false, {}}});
    if (i == 25'000) loop.poll();
  }
  SECTION("the client first") {
    client.reset();
    other.reset();
    REQUIRE(turn_until(loop, [&] { return control.lost.size() == 2; }));
    server.reset();
  }
  SECTION("the server first") {
    server.reset();
    REQUIRE(turn_until(loop, [&] { return worker.lost_why.size() == 1 && plane.lost_why.size() == 1; }));
  }
  SECTION("without another turn of the loop") {
    server.reset();
    client.reset();
    other.reset();
  }
}

TEST_CASE("link: ends may be destroyed from inside their own callbacks") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  std::unique_ptr<ControlServer> server;
  std::unique_ptr<WorkerClient> client;
  SECTION("the client in hello") { worker.on_hello = [&] { client.reset(); }; }
  SECTION("the client in joined") { worker.on_joined = [&] { client.reset(); }; }
  SECTION("the server in worker_joined") {
    control.on_worker = [&](SessionId) {
      server.reset();
      client.reset();
    };
  }
  server = serve(loop, control);
  client = connect_worker(loop, to(*server), worker);
  REQUIRE(turn_until(loop, [&] { return client == nullptr; }));
  turn_for(loop, 50ms);
}

TEST_CASE("link: a session that the control plane ends is told why and joins again") {
  QuietLog quiet;
  JoinedWorker pair;
  auto& [loop, control, worker, server, client] = pair;
  server->disconnect(control.last_worker, "a newer session of this node");
  CHECK(control.lost.empty());  // never from inside a method
  REQUIRE(turn_until(loop, [&] { return worker.joins == 2 && control.lost.size() == 1; }));
  CHECK(control.lost[0] == "a newer session of this node");
  REQUIRE(worker.lost_why.size() == 1);
  CHECK(worker.lost_why[0] == "the control plane ended the session: a newer session of this node");
}

TEST_CASE("link: a healthy but idle session outlives the silence limit") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const auto server = serve(loop, control, kAnyPort, 300ms);
  const auto client = connect_worker(loop, to(*server, 300ms), worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  turn_for(loop, 1s);
  CHECK(worker.lost_why.empty());
  CHECK(control.lost.empty());
  CHECK(worker.joins == 1);
  CHECK(worker.batches == 0);
  CHECK(client->counters().messages_sent == 0);
  // Signs of life are no messages, and are heard.
  const Instant heard = server->last_heard(control.last_worker);
  CHECK(heard > Instant{});
  CHECK(turn_until(loop, [&] { return server->last_heard(control.last_worker) > heard; }));
  CHECK(server->last_heard(SessionId{4711}) == Instant{});
}

TEST_CASE("link: a thousand clients share one loop") {
  // Both ends are in this process: two descriptors a client.
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  REQUIRE(files.rlim_max >= 3'000);
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, 3'000);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control);
  std::vector<std::unique_ptr<FakeWorker>> workers;
  std::vector<std::unique_ptr<WorkerClient>> clients;
  for (int i = 0; i < 1'000; ++i) {
    workers.push_back(std::make_unique<FakeWorker>(fmt::format("node-{}", i)));
    // On a slow machine the loop takes longer than usual to get round to each of them.
    ClientOptions options = to(*server);
    options.connect_timeout = 20s;
    options.silence_max = 20s;
    clients.push_back(connect_worker(loop, options, *workers.back()));
  }
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1'000; }));
  for (const auto& [session, hello] : control.workers) server->send(session, stop_order(session.value));
  REQUIRE(turn_until(loop, [&] { return std::all_of(workers.begin(), workers.end(), [](const auto& worker) { return worker->orders.size() == 1; }); }));
  for (auto& client : clients) client->send(usage(1));
  REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == 1'000; }));
  clients.clear();
  REQUIRE(turn_until(loop, [&] { return control.workers.empty(); }));
}

TEST_CASE("link: a Unix socket serves as well, and its file goes with the server") {
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const std::filesystem::path directory = std::filesystem::temp_directory_path() / fmt::format("dirigent-rpc-test-{}", ::getpid());
  std::filesystem::create_directory(directory);
  const std::string path = directory / "control.sock";
  {
    const auto server = serve(loop, control, "unix:" + path);
    struct stat file {};
    REQUIRE(::stat(path.c_str(), &file) == 0);
    CHECK((file.st_mode & 0777) == 0660);
    const auto second = serve_control(loop, ControlServerOptions{Address{"unix:" + path}, Term{}, 3s}, control);
    REQUIRE(!second);
    CHECK(second.error().code == ErrorCode::already_exists);
    const auto client = connect_worker(loop, to(*server), worker);
    REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
    client->send(usage(1));
    REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == 1; }));
  }
  CHECK(!std::filesystem::exists(path));
  std::filesystem::remove_all(directory);
}

TEST_CASE("link: an address that cannot be used is an error that says what to do") {
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control);
  const auto code_of = [&](std::string text) {
    const auto result = serve_control(loop, ControlServerOptions{Address{std::move(text)}, Term{}, 3s}, control);
    REQUIRE(!result);
    CHECK(result.error().message.find('(') != std::string::npos);
    return result.error().code;
  };
  CHECK(code_of(server->address().text) == ErrorCode::already_exists);
  CHECK(code_of("") == ErrorCode::invalid_argument);
  CHECK(code_of("127.0.0.1") == ErrorCode::invalid_argument);
  CHECK(code_of("127.0.0.1:65536") == ErrorCode::invalid_argument);
  CHECK(code_of("::1:80") == ErrorCode::invalid_argument);
  CHECK(code_of("unix:relative") == ErrorCode::invalid_argument);
  CHECK(code_of("unix:/" + std::string(200, 'x')) == ErrorCode::invalid_argument);
  CHECK(code_of("192.0.2.1:0") == ErrorCode::unavailable);
}

}  // namespace
}  // namespace dirigent::rpc::test
