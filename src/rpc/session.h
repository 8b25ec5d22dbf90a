// SPDX-License-Identifier: MIT
//
// Session: the control plane's end of one connection, from the first byte to the last.
//
//   greeting --join--> deciding --handler says yes--> joined --+--> over
//       |                  +------handler says no--> leaving --+
//       +---- the peer ends it, is silent or says nonsense ----+
//
// In `leaving` the peer is given a moment to read why (the refusal, or goodbye) and to close first.
#pragma once

#include <asio/steady_timer.hpp>

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "rpc/connection.h"
#include "rpc/convert.h"
#include "rpc/outbox.h"

namespace dirigent::rpc {

// What a session needs of its server. Methods are called from handlers of the loop, outside KJ events.
class SessionOwner {
 public:
  virtual ~SessionOwner() = default;
  // The verdict about a hello.
  virtual Status joined(SessionId session, std::variant<WorkerHello, DataPlaneHello> hello) = 0;
  virtual void said(SessionId session, std::vector<WorkerMessage> messages) = 0;
  virtual void said(SessionId session, std::vector<DataPlaneMessage> messages) = 0;
  // Nothing more will be said; `was_joined` says whether joined() had accepted it. The connection may still be open.
  virtual void over(SessionId session, bool was_joined, std::string why) = 0;
  // The connection is closed, after over().
  virtual void gone(SessionId session) = 0;
  virtual LinkCounters& counters() = 0;
  [[nodiscard]] virtual Term term() const = 0;
  [[nodiscard]] virtual const std::string& leader() const = 0;
  [[nodiscard]] virtual bool closed() const = 0;
};

// One question for logs on its way. Owned by the asking coroutine.
struct PendingLogs {
  explicit PendingLogs(KjLoop& kj_loop) : kj(kj_loop), timer(kj_loop.context()) {}
  ~PendingLogs() { drop_call(); }
  // The first result stays; wakes the coroutine.
  void settle(Result<LogAnswer> outcome);
  // Ends the call.
  void drop_call();

  KjLoop& kj;
  asio::steady_timer timer;
  std::optional<Result<LogAnswer>> result;
  kj::Promise<void> call = nullptr;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(io::Loop& loop, std::weak_ptr<SessionOwner> owner, SessionId id, const ControlServerOptions& options);
  ~Session() noexcept;
  // Starts listening to the peer. Once.
  void open(Socket socket);

  void send(WorkerOrder order);
  void send(DataPlaneOrder order);
  // Null unless it is the joined session of a worker.
  std::shared_ptr<PendingLogs> ask_logs(LogQuery query, Duration timeout);
  // Says goodbye, then ends.
  void disconnect(std::string why);
  // Ends at once, telling nobody.
  void close();
  [[nodiscard]] SessionId id() const { return id_; }
  [[nodiscard]] Instant last_heard() const { return connection_ ? connection_->last_received() : Instant{}; }

  // Called by the RPC methods, inside KJ events.
  kj::Promise<std::string> join(Result<WorkerHello> hello, kj::Maybe<schema::Worker::Client> worker);
  kj::Promise<std::string> join(Result<DataPlaneHello> hello, kj::Maybe<schema::DataPlane::Client> data_plane);
  void write_answer(schema::JoinAnswer::Builder answer, const std::string& refusal) const;
  template <class Message>
  void received(Result<std::vector<Message>> messages);

 private:
  enum class Phase { greeting, deciding, joined, leaving, over };
  using Hello = std::variant<WorkerHello, DataPlaneHello>;

  kj::Promise<std::string> decide(Hello hello, std::string refusal);
  void decided(Hello hello, std::string refusal);
  void leave(std::string why);
  void end(std::string why);
  void give_up_logs();
  void report_over(std::string why);
  void tear_down();

  io::Loop& loop_;
  KjLoop& kj_;
  std::weak_ptr<SessionOwner> owner_;
  SessionId id_;
  Duration silence_max_;
  Phase phase_ = Phase::greeting;
  bool was_joined_ = false;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Outbox<schema::Worker, WorkerOrder>> to_worker_;
  std::shared_ptr<Outbox<schema::DataPlane, OrderPart>> to_data_plane_;
  kj::Maybe<schema::Worker::Client> worker_;
  kj::Maybe<schema::DataPlane::Client> data_plane_;
  kj::Maybe<kj::Own<kj::PromiseFulfiller<std::string>>> verdict_;
  kj::Promise<void> goodbye_ = nullptr;
  std::list<std::weak_ptr<PendingLogs>> pending_logs_;
  asio::steady_timer timer_;
};

}  // namespace dirigent::rpc
