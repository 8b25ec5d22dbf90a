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

TEST_CASE("link: a question for logs that is not answered in time fails, and the session goes on") {
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control);
  WorkerThread other(to(*server));
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  std::promise<void> release;
  other.loop.post([held = release.get_future().share()] { held.wait(); });
  const auto answer = await(loop, server->logs(control.last_worker, LogQuery{}, 50ms));
  release.set_value();
  REQUIRE(!answer);
  CHECK(answer.error().code == ErrorCode::timed_out);
  const auto second = await(loop, server->logs(control.last_worker, LogQuery{}, 10s));
  CHECK(second);
}

TEST_CASE("link: a question for logs fails at once when the worker is lost or the server closes") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control);
  WorkerThread other(to(*server));
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  std::promise<void> release;
  other.loop.post([held = release.get_future().share()] { held.wait(); });
  std::optional<Result<LogAnswer>> answer;
  asio::co_spawn(loop.context().get_executor(), server->logs(control.last_worker, LogQuery{}, 30s),
                 [&](std::exception_ptr, Result<LogAnswer> result) { answer = std::move(result); });
  loop.poll();
  SECTION("close") { server->close(); }
  SECTION("disconnect") {
    server->disconnect(control.last_worker, "test");
  }
  REQUIRE(turn_until(loop, [&] { return answer.has_value(); }));
  release.set_value();
  REQUIRE(!*answer);
  // Not timed_out, which the 30 s would have brought.
  CHECK(answer->error().code == ErrorCode::unavailable);
}

TEST_CASE("link: two loops in two threads exchange messages in order") {
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control);
  WorkerThread other(to(*server));
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  constexpr std::uint32_t kMessages = 5'000;
  other.loop.post([&] {
    for (std::uint32_t i = 0; i < kMessages; ++i) other.client->send(usage(i));
  });
  for (std::uint32_t i = 0; i < kMessages; ++i) server->send(control.last_worker, stop_order(i));
  REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == kMessages; }));
  for (std::uint32_t i = 0; i < kMessages; ++i) REQUIRE(std::get<NodeHeartbeat>(control.from_workers[i]).usage.sandboxes == i);
  std::size_t orders = 0;
  bool asked = false;
  REQUIRE(turn_until(loop, [&] {
    if (!std::exchange(asked, true)) {
      other.loop.post([&] {
        loop.post([&, size = other.worker.orders.size()] {
          orders = size;
          asked = orders == kMessages;
        });
      });
    }
    return orders == kMessages;
  }));
}

TEST_CASE("link: a worker that is held up longer than the silence limit is lost, and joins again") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  const auto server = serve(loop, control, kAnyPort, 200ms);
  WorkerThread other(to(*server, 200ms));
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  std::promise<void> release;
  other.loop.post([held = release.get_future().share()] { held.wait(); });
  REQUIRE(turn_until(loop, [&] { return control.lost.size() == 1; }));
  CHECK(control.lost[0].starts_with("nothing was heard from the peer for"));
  release.set_value();
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
}

}  // namespace
}  // namespace dirigent::rpc::test
