// SPDX-License-Identifier: MIT
//
// The connections between roles: Cap'n Proto RPC on the loop, seen as ordered streams of messages (model/messages.h).
//
//   control                                worker / data plane
//   ControlServer  <---- one TCP or Unix connection each ---->  WorkerClient / DataPlaneClient
//
// Messages sent in one turn of the loop travel in one call (batched); at most two batches are unanswered, the rest waits.
// A session ends when its connection does, when a peer is silent for `silence_max`, or when it misbehaves. Clients
// reconnect by themselves with jittered exponential back-off (50 ms doubling to 2 s) and say hello again.
//
// No kj:: or capnp:: name appears above this floor. Everything runs on the loop's thread; callbacks are never called
// from inside a method of this floor.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/base/result.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/model/messages.h"

namespace dirigent::rpc {

// "127.0.0.1:9090", "[::1]:9090", "unix:/path"; port 0 asks for any free one.
struct Address {
  std::string text;
};

struct LogQuery {
  SandboxId sandbox;
  std::uint32_t lines_max = 100;
};
struct LogAnswer {
  struct Line {
    std::int64_t time_us = 0;  // since 1970-01-01 UTC
    bool is_error_stream = false;
    std::string text;
  };
  std::vector<Line> lines;
};

// What one end has sent and received, for metrics and tests. A batch is one call.
struct LinkCounters {
  std::uint64_t messages_sent = 0;
  std::uint64_t batches_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t batches_received = 0;
  Histogram answer_times;  // of batches and pings, nanoseconds: sent to answered
};

// --- control side -------------------------------------------------------------------------------------------------

// Implemented by the control role. For each session: joined once, said any number of times, lost once (also after
// disconnect(), with its reason; not after a refused hello, and not after close()). Orders sent from inside *_joined
// arrive after the answer to the hello.
class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  // A refused hello closes the session; the error travels to the client, which logs it and tries again later.
  virtual Status worker_joined(SessionId session, WorkerHello hello) = 0;
  virtual void worker_said(SessionId session, std::vector<WorkerMessage> messages) = 0;
  virtual void worker_lost(SessionId session, std::string why) = 0;
  virtual Status data_plane_joined(SessionId session, DataPlaneHello hello) = 0;
  virtual void data_plane_said(SessionId session, std::vector<DataPlaneMessage> messages) = 0;
  virtual void data_plane_lost(SessionId session, std::string why) = 0;
};

class ControlServer {
 public:
  virtual ~ControlServer() = default;
  // Where it listens, with the real port.
  [[nodiscard]] virtual Address address() const = 0;
  virtual void send(SessionId session, WorkerOrder order) = 0;         // unknown sessions are ignored
  virtual void send(SessionId session, DataPlaneOrder order) = 0;
  // Errors: not_found (no such worker session), unavailable (it ended meanwhile), timed_out, cancelled.
  virtual io::Task<LogAnswer> logs(SessionId worker, LogQuery query, Duration timeout) = 0;
  // Tells the peer why and closes; it will try again later. Unknown sessions are ignored.
  virtual void disconnect(SessionId session, std::string why) = 0;
  // When the peer's last sign of life came; the beginning of time for an unknown session.
  [[nodiscard]] virtual Instant last_heard(SessionId session) const = 0;
  // What hellos are answered with from now on: the term, and the address to try instead when one is refused ("" = none).
  virtual void set_leader(Term term, std::string address) = 0;
  [[nodiscard]] virtual LinkCounters counters() const = 0;  // of all sessions since the start
  // Stops accepting and closes every session, without callbacks.
  virtual void close() = 0;
};

struct ControlServerOptions {
  Address listen;
  Term term;                       // told to every client in the answer to its hello
  Duration silence_max = 3s;       // 3 signs of life, 1 s apart
};
// `handler` must outlive the server, and the server must be gone before the loop is. Errors: invalid_argument (not an
// address), already_exists (the address is in use), permission_denied.
Result<std::unique_ptr<ControlServer>> serve_control(io::Loop& loop, ControlServerOptions options, ControlHandler& handler);

// --- worker and data-plane side -----------------------------------------------------------------------------------

enum class LinkState { connecting, joined };

// Implemented by the worker role. joined and lost alternate; a refused hello calls neither, it is logged with the control
// plane's words and repeated later.
class WorkerHandler {
 public:
  virtual ~WorkerHandler() = default;
  // Called before each hello: who we are and all that we run, now.
  virtual WorkerHello hello() = 0;
  virtual void joined(Term term) = 0;
  virtual void ordered(std::vector<WorkerOrder> orders) = 0;
  virtual void lost(std::string why) = 0;
  virtual LogAnswer logs(LogQuery query) = 0;
};

// Implemented by the data role; as WorkerHandler.
class DataPlaneHandler {
 public:
  virtual ~DataPlaneHandler() = default;
  virtual DataPlaneHello hello() = 0;
  virtual void joined(Term term) = 0;
  virtual void ordered(std::vector<DataPlaneOrder> orders) = 0;
  virtual void lost(std::string why) = 0;
};

struct ClientOptions {
  std::vector<Address> control;    // tried in turn, one after another at once; a pause follows the last one
  Duration connect_timeout = 1s;
  Duration silence_max = 3s;       // also the longest wait for the answer to a hello
};
// A client that is destroyed without close() drops its connection at once, without callbacks. `handler` must outlive the
// client, and the client must be gone before the loop is. REQUIRES: at least one address.

class WorkerClient {
 public:
  virtual ~WorkerClient() = default;
  [[nodiscard]] virtual LinkState state() const = 0;
  // While connecting, messages are dropped: the next hello says everything. What is sent after hello() was called and
  // before joined() is kept and follows the hello.
  virtual void send(WorkerMessage message) = 0;
  // Sends what is queued (waiting at most `timeout` until the control plane has it), then closes; no callbacks once it has
  // begun. The client may be destroyed meanwhile.
  virtual io::Action close(Duration timeout) = 0;
  [[nodiscard]] virtual LinkCounters counters() const = 0;  // of all its sessions
};
std::unique_ptr<WorkerClient> connect_worker(io::Loop& loop, ClientOptions options, WorkerHandler& handler);

class DataPlaneClient {
 public:
  virtual ~DataPlaneClient() = default;
  [[nodiscard]] virtual LinkState state() const = 0;
  virtual void send(DataPlaneMessage message) = 0;
  virtual io::Action close(Duration timeout) = 0;
  [[nodiscard]] virtual LinkCounters counters() const = 0;
};
std::unique_ptr<DataPlaneClient> connect_data_plane(io::Loop& loop, ClientOptions options, DataPlaneHandler& handler);

}  // namespace dirigent::rpc
