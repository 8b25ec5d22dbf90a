// SPDX-License-Identifier: MIT
//
// Two ends of cluster.h in two threads, as control and worker processes are, one of which can be held up.
#include <future>
#include <thread>

#include "cluster_fixture.h"

namespace dirigent::rpc::test {
namespace {

// Two loops of two threads, as control and worker processes are; with a worker that can be held up.
struct WorkerThread {
  explicit WorkerThread(ClientOptions options) : client(connect_worker(loop, std::move(options), worker)), thread([this] { loop.run(); }) {}
  ~WorkerThread() {
    loop.post([this] {
      client.reset();
      loop.stop();
    });
    thread.join();
  }
  io::Loop loop;
  FakeWorker worker;
  std::unique_ptr<WorkerClient> client;
  std::thread thread;
};

// The worker's thread has joined; it stands still between hold_up() and go_on().
struct TwoThreads {
  explicit TwoThreads(Duration silence_max = 3s) : server(serve(loop, control, kAnyPort, silence_max)), other(to(*server, silence_max)) {
    REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  }
  ~TwoThreads() { go_on(); }  // or its thread could not be joined
  void hold_up() {
    other.loop.post([held = release.emplace().get_future().share()] { held.wait(); });
  }
  void go_on() {
    if (release) release->set_value();
    release.reset();
  }

  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  std::unique_ptr<ControlServer> server;
  WorkerThread other;
  std::optional<std::promise<void>> release;
};

TEST_CASE("link: a question for logs that is not answered in time fails, and the session goes on") {
  TwoThreads two;
  two.hold_up();
  const auto answer = await(two.loop, two.server->logs(two.control.last_worker, LogQuery{}, 50ms));
  two.go_on();
  REQUIRE(!answer);
  CHECK(answer.error().code == ErrorCode::timed_out);
  const auto second = await(two.loop, two.server->logs(two.control.last_worker, LogQuery{}, 10s));
  CHECK(second);
}

TEST_CASE("link: a question for logs fails at once when the worker is lost or the server closes") {
  TwoThreads two;
  two.hold_up();
  std::optional<Result<LogAnswer>> answer;
  asio::co_spawn(two.loop.context().get_executor(), two.server->logs(two.control.last_worker, LogQuery{}, 30s),
                 [&](std::exception_ptr, Result<LogAnswer> result) { answer = std::move(result); });
  two.loop.poll();
  SECTION("close") { two.server->close(); }
  SECTION("disconnect") {
    two.server->disconnect(two.control.last_worker, "test");
  }
  REQUIRE(turn_until(two.loop, [&] { return answer.has_value(); }));
  two.go_on();
  REQUIRE(!*answer);
  // Not timed_out, which the 30 s would have brought.
  CHECK(answer->error().code == ErrorCode::unavailable);
}

TEST_CASE("link: two loops in two threads exchange messages in order") {
  TwoThreads two;
  constexpr std::uint32_t kMessages = 5'000;
  two.other.loop.post([&] {
    for (std::uint32_t i = 0; i < kMessages; ++i) two.other.client->send(usage(i));
  });
  for (std::uint32_t i = 0; i < kMessages; ++i) two.server->send(two.control.last_worker, stop_order(i));
  REQUIRE(turn_until(two.loop, [&] { return two.control.from_workers.size() == kMessages; }));
  for (std::uint32_t i = 0; i < kMessages; ++i) REQUIRE(std::get<NodeHeartbeat>(two.control.from_workers[i]).usage.sandboxes == i);
  std::size_t orders = 0;
  bool asked = false;
  REQUIRE(turn_until(two.loop, [&] {
    if (!std::exchange(asked, true)) {
      two.other.loop.post([&] {
        two.loop.post([&, size = two.other.worker.orders.size()] {
          orders = size;
          asked = orders == kMessages;
        });
      });
    }
    return orders == kMessages;
  }));
}

TEST_CASE("link: a worker that is held up longer than the silence limit is lost, and joins again") {
  TwoThreads two(200ms);
  two.hold_up();
  REQUIRE(turn_until(two.loop, [&] { return two.control.lost.size() == 1; }));
  CHECK(two.control.lost[0].starts_with("nothing was heard from the peer for"));
  two.go_on();
  REQUIRE(turn_until(two.loop, [&] { return two.control.workers.size() == 1; }));
}

}  // namespace
}  // namespace dirigent::rpc::test
