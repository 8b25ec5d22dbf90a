// SPDX-License-Identifier: MIT
//
// Fakes of the roles for the tests of the rpc floor, and a loop that turns until something is true.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/io/loop.h"
#include "dirigent/rpc/cluster.h"

#include <asio/co_spawn.hpp>
#include <asio/steady_timer.hpp>

namespace dirigent::rpc::test {

inline constexpr const char* kAnyPort = "127.0.0.1:0";

// Turns `loop` until `condition` holds; false after `limit`, so that a broken test ends.
template <class Condition>
bool turn_until(io::Loop& loop, Condition condition, Duration limit = 60s) {
  const Instant deadline = io::Loop::now() + limit;
  asio::steady_timer heartbeat(loop.context());
  auto is_armed = std::make_shared<bool>(false);
  while (!condition()) {
    if (io::Loop::now() >= deadline) return false;
    if (!std::exchange(*is_armed, true)) {
      heartbeat.expires_after(5ms);
      heartbeat.async_wait([is_armed](std::error_code) { *is_armed = false; });
    }
    loop.context().restart();
    loop.context().run_one();
  }
  return true;
}

// Turns for a while in which something must not happen.
inline void turn_for(io::Loop& loop, Duration duration) {
  turn_until(loop, [] { return false; }, duration);
}

// Runs a coroutine to its end and returns what it returned.
template <class T>
T await(io::Loop& loop, asio::awaitable<T, asio::io_context::executor_type> action) {
  std::optional<T> result;
  asio::co_spawn(loop.context().get_executor(), std::move(action), [&](std::exception_ptr error, T value) {
    REQUIRE(!error);
    result = std::move(value);
  });
  REQUIRE(turn_until(loop, [&] { return result.has_value(); }));
  return std::move(*result);
}
inline void await(io::Loop& loop, io::Action action) {
  bool ended = false;
  asio::co_spawn(loop.context().get_executor(), std::move(action), [&](std::exception_ptr error) {
    REQUIRE(!error);
    ended = true;
  });
  REQUIRE(turn_until(loop, [&] { return ended; }));
}

// The log stays silent in tests that provoke warnings by the dozen.
struct QuietLog {
  QuietLog() { set_log_level(LogLevel::off); }
  ~QuietLog() { set_log_level(LogLevel::info); }
};

struct FakeControl : ControlHandler {
  Status worker_joined(SessionId session, WorkerHello hello) override {
    ++hellos;
    if (!refusal.empty()) return failure(ErrorCode::unavailable, "{}", refusal);
    workers.emplace(session, std::move(hello));
    last_worker = session;
    if (on_worker) on_worker(session);
    return {};
  }
  void worker_said(SessionId session, std::vector<WorkerMessage> messages) override {
    REQUIRE(workers.count(session) == 1);
    for (auto& message : messages) from_workers.push_back(std::move(message));
  }
  void worker_lost(SessionId session, std::string why) override {
    REQUIRE(workers.erase(session) == 1);
    lost.push_back(std::move(why));
  }
  Status data_plane_joined(SessionId session, DataPlaneHello hello) override {
    ++hellos;
    if (!refusal.empty()) return failure(ErrorCode::unavailable, "{}", refusal);
    data_planes.emplace(session, std::move(hello));
    last_data_plane = session;
    return {};
  }
  void data_plane_said(SessionId session, std::vector<DataPlaneMessage> messages) override {
    REQUIRE(data_planes.count(session) == 1);
    for (auto& message : messages) from_data_planes.push_back(std::move(message));
  }
  void data_plane_lost(SessionId session, std::string why) override {
    REQUIRE(data_planes.erase(session) == 1);
    lost.push_back(std::move(why));
  }

  std::string refusal;
  std::function<void(SessionId)> on_worker;
  int hellos = 0;
  SessionId last_worker;
  SessionId last_data_plane;
  std::map<SessionId, WorkerHello> workers;
  std::map<SessionId, DataPlaneHello> data_planes;
  std::vector<WorkerMessage> from_workers;
  std::vector<DataPlaneMessage> from_data_planes;
  std::vector<std::string> lost;
};

struct FakeWorker : WorkerHandler {
  explicit FakeWorker(std::string id = "node-1") { me.node.id.value = std::move(id); }
  WorkerHello hello() override {
    ++hellos;
    if (on_hello) on_hello();
    return me;
  }
  void joined(Term now) override {
    ++joins;
    term = now;
    if (on_joined) on_joined();
  }
  void ordered(std::vector<WorkerOrder> batch) override {
    ASSERT(joins > static_cast<int>(lost_why.size()), "an order without a session");  // on whatever thread: nothing of Catch
    ++batches;
    for (auto& order : batch) orders.push_back(std::move(order));
  }
  void lost(std::string why) override { lost_why.push_back(std::move(why)); }
  LogAnswer logs(LogQuery query) override {
    queries.push_back(query);
    return answer;
  }

  WorkerHello me;
  std::function<void()> on_hello;
  std::function<void()> on_joined;
  LogAnswer answer;
  std::vector<LogQuery> queries;
  int hellos = 0;
  int joins = 0;
  int batches = 0;
  Term term;
  std::vector<WorkerOrder> orders;
  std::vector<std::string> lost_why;
};

struct FakeDataPlane : DataPlaneHandler {
  explicit FakeDataPlane(std::string id = "data-1") { me.id.value = std::move(id); }
  DataPlaneHello hello() override { return me; }
  void joined(Term) override { ++joins; }
  void ordered(std::vector<DataPlaneOrder> batch) override {
    for (auto& order : batch) orders.push_back(std::move(order));
  }
  void lost(std::string why) override { lost_why.push_back(std::move(why)); }

  DataPlaneHello me;
  int joins = 0;
  std::vector<DataPlaneOrder> orders;
  std::vector<std::string> lost_why;
};

inline std::unique_ptr<ControlServer> serve(io::Loop& loop, ControlHandler& handler, std::string listen = kAnyPort, Duration silence_max = 3s) {
  auto server = serve_control(loop, ControlServerOptions{Address{std::move(listen)}, Term{7}, silence_max}, handler);
  if (!server) FAIL(server.error().message);
  return std::move(*server);
}
inline ClientOptions to(const ControlServer& server, Duration silence_max = 3s) { return ClientOptions{{server.address()}, 1s, silence_max}; }

// A worker that has joined.
struct JoinedWorker {
  JoinedWorker() { REQUIRE(turn_until(loop, [this] { return worker.joins == 1; })); }
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  std::unique_ptr<ControlServer> server = serve(loop, control);
  std::unique_ptr<WorkerClient> client = connect_worker(loop, to(*server), worker);
};

inline WorkerOrder stop_order(std::uint64_t number) { return StopSandbox{Term{7}, SandboxId{number}}; }
inline WorkerMessage usage(std::uint32_t sandboxes) { return NodeHeartbeat{NodeUsage{{}, sandboxes}}; }

}  // namespace dirigent::rpc::test
