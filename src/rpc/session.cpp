// SPDX-License-Identifier: MIT
#include "rpc/session.h"

#include <algorithm>

#include "dirigent/base/log.h"
#include "rpc/dial.h"

namespace dirigent::rpc {

namespace {

// How long a peer that was refused or sent away may take to read why before it is cut off.
constexpr Duration kLeaveTime = 1s;

// What a joined worker calls.
class WorkerSessionEnd final : public schema::WorkerSession::Server {
 public:
  explicit WorkerSessionEnd(std::weak_ptr<Session> session) : session_(std::move(session)) {}
  kj::Promise<void> deliver(DeliverContext context) override {
    if (auto session = session_.lock()) session->received(read(context.getParams().getMessages()));
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<Session> session_;
};

// What a joined data plane calls.
class DataPlaneSessionEnd final : public schema::DataPlaneSession::Server {
 public:
  explicit DataPlaneSessionEnd(std::weak_ptr<Session> session) : session_(std::move(session)) {}
  kj::Promise<void> deliver(DeliverContext context) override {
    if (auto session = session_.lock()) session->received(read(context.getParams().getMessages()));
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<Session> session_;
};

// What a peer that has not joined yet calls.
class ControlPlaneEnd final : public schema::ControlPlane::Server {
 public:
  explicit ControlPlaneEnd(std::weak_ptr<Session> session) : session_(std::move(session)) {}

  kj::Promise<void> joinWorker(JoinWorkerContext context) override {
    return join<WorkerSessionEnd>(context, [](auto params) -> kj::Maybe<schema::Worker::Client> {
      if (!params.hasWorker()) return nullptr;
      return params.getWorker();
    });
  }
  kj::Promise<void> joinDataPlane(JoinDataPlaneContext context) override {
    return join<DataPlaneSessionEnd>(context, [](auto params) -> kj::Maybe<schema::DataPlane::Client> {
      if (!params.hasDataPlane()) return nullptr;
      return params.getDataPlane();
    });
  }

 private:
  template <class End, class Context, class PeerOf>
  kj::Promise<void> join(Context context, PeerOf peer_of) {
    auto session = session_.lock();
    if (!session) return KJ_EXCEPTION(DISCONNECTED, "the session is over");
    auto params = context.getParams();
    return session->join(read(params.getHello()), peer_of(params)).then([context, weak = session_](std::string refusal) mutable {
      auto alive = weak.lock();
      if (!alive) return;
      auto results = context.getResults();
      alive->write_answer(results.initAnswer(), refusal);
      if (refusal.empty()) results.setSession(kj::heap<End>(weak));
    });
  }

  std::weak_ptr<Session> session_;
};

std::string skew(std::uint32_t theirs) {
  const auto ours = static_cast<std::int64_t>(kProtocolVersion);
  const std::int64_t apart = static_cast<std::int64_t>(theirs) - ours;
  if (apart >= -1 && apart <= 1) return "";
  return fmt::format("the peer speaks protocol {}, this control plane {}: they may differ by one (upgrade the older of the two)", theirs, ours);
}

}  // namespace

// --- questions for logs -------------------------------------------------------------------------------------------

void PendingLogs::settle(Result<LogAnswer> outcome) {
  if (!result) result = std::move(outcome);
  timer.cancel();
}

void PendingLogs::drop_call() {
  kj.inside("ending a question for logs", [this] { call = nullptr; });
}

std::shared_ptr<PendingLogs> Session::ask_logs(LogQuery query, Duration timeout) {
  if (phase_ != Phase::joined || worker_ == nullptr) return nullptr;
  auto pending = std::make_shared<PendingLogs>(kj_);
  pending->timer.expires_after(timeout);
  pending_logs_.remove_if([](const auto& weak) { return weak.expired(); });
  pending_logs_.push_back(pending);
  kj_.inside("asking for logs", [&] {
    auto request = KJ_ASSERT_NONNULL(worker_).logsRequest();
    write(request.initQuery(), query);
    // The call is owned by what it points to, so it never outlives it.
    auto answered = [raw = pending.get()](capnp::Response<schema::Worker::LogsResults>&& response) { raw->settle(read(response.getAnswer())); };
    auto failed = [raw = pending.get()](kj::Exception&& exception) {
      raw->settle(failure(ErrorCode::unavailable, "the worker did not answer the question for logs: {}", words(exception)));
    };
    pending->call = request.send().then(kj::mv(answered), kj::mv(failed)).eagerlyEvaluate(nullptr);
  });
  return pending;
}

// --- the beginning ------------------------------------------------------------------------------------------------

Session::Session(io::Loop& loop, std::weak_ptr<SessionOwner> owner, SessionId id, const ControlServerOptions& options)
    : loop_(loop), kj_(KjLoop::of(loop)), owner_(std::move(owner)), id_(id), silence_max_(options.silence_max), timer_(loop.context()) {}

Session::~Session() noexcept { close(); }

void Session::open(Socket socket) {
  tune(socket, silence_max_);
  std::string peer = peer_name(socket);
  ConnectionHooks hooks;
  hooks.ended = [weak = weak_from_this()](std::string why) {
    if (auto session = weak.lock()) session->end(std::move(why));
  };
  kj::Maybe<capnp::Capability::Client> offered;
  kj_.inside("accepting a connection", [&] { offered = capnp::Capability::Client(kj::heap<ControlPlaneEnd>(weak_from_this())); });
  connection_ = Connection::open(kj_, std::move(socket), std::move(peer), Connection::Side::server, kj::mv(offered), silence_max_, std::move(hooks));
  // Bytes that never become a hello are no sign of life.
  timer_.expires_after(silence_max_);
  timer_.async_wait([weak = weak_from_this(), limit = silence_max_](std::error_code error) {
    auto session = weak.lock();
    if (error || !session || session->phase_ != Phase::greeting) return;
    session->end(fmt::format("the peer did not say hello within {}", format_duration(limit)));
  });
}

kj::Promise<std::string> Session::join(Result<WorkerHello> hello, kj::Maybe<schema::Worker::Client> worker) {
  if (!hello) return decide(WorkerHello{}, hello.error().message);
  if (phase_ == Phase::greeting) worker_ = kj::mv(worker);
  return decide(std::move(*hello), "");
}

kj::Promise<std::string> Session::join(Result<DataPlaneHello> hello, kj::Maybe<schema::DataPlane::Client> data_plane) {
  if (!hello) return decide(DataPlaneHello{}, hello.error().message);
  if (phase_ == Phase::greeting) data_plane_ = kj::mv(data_plane);
  return decide(std::move(*hello), "");
}

// Inside a KJ event: the handler is asked later, from a handler of the loop.
kj::Promise<std::string> Session::decide(Hello hello, std::string refusal) {
  if (phase_ != Phase::greeting) return std::string("one connection joins once");
  phase_ = Phase::deciding;
  auto pair = kj::newPromiseAndFulfiller<std::string>();
  verdict_ = kj::mv(pair.fulfiller);
  loop_.post([self = shared_from_this(), hello = std::move(hello), refusal = std::move(refusal)]() mutable {
    self->decided(std::move(hello), std::move(refusal));
  });
  return kj::mv(pair.promise);
}

void Session::decided(Hello hello, std::string refusal) {
  const auto owner = owner_.lock();
  if (phase_ != Phase::deciding || !owner || owner->closed()) return;
  const bool is_worker = std::holds_alternative<WorkerHello>(hello);
  if (refusal.empty()) refusal = std::visit([](const auto& one) { return skew(one.protocol); }, hello);
  if (refusal.empty() && worker_ == nullptr && data_plane_ == nullptr) refusal = "the hello has no capability to send orders to";
  if (refusal.empty()) {
    // The handler may send orders before it returns; they wait in the outbox until it is opened.
    phase_ = Phase::joined;
    const auto failed = [weak = weak_from_this()](std::string why) {
      if (auto session = weak.lock()) session->end(std::move(why));
    };
    if (is_worker) {
      to_worker_ = std::make_shared<Outbox<schema::Worker, WorkerOrder>>(kj_, owner->counters(), Outbox<schema::Worker, WorkerOrder>::Hooks{failed, {}});
    } else {
      to_data_plane_ = std::make_shared<Outbox<schema::DataPlane, OrderPart>>(kj_, owner->counters(), Outbox<schema::DataPlane, OrderPart>::Hooks{failed, {}});
    }
    was_joined_ = true;
    const Status status = owner->joined(id_, std::move(hello));
    if (!status) {
      was_joined_ = false;
      refusal = status.error().message.empty() ? "no reason was given" : status.error().message;
    }
    if (phase_ == Phase::over || owner->closed()) return;
  }
  KJ_IF_MAYBE (verdict, verdict_) {
    kj_.inside("answering a hello", [&] { (*verdict)->fulfill(std::string(refusal)); });
    verdict_ = nullptr;
    kj_.pump();
  }
  if (!refusal.empty()) {
    // Being sent to the leader is the usual way in, and after a failover a thousand peers come along it.
    const std::string peer = connection_ ? connection_->peer() : "a peer";
    if (owner->leader().empty()) {
      log_warn("rpc", "refused the hello of {}: {}", peer, refusal);
    } else {
      log_debug("rpc", "refused the hello of {}: {}", peer, refusal);
    }
    leave(std::move(refusal));
    return;
  }
  if (phase_ != Phase::joined) return;
  kj_.inside("opening a session", [this] {
    KJ_IF_MAYBE (worker, worker_) to_worker_->open(*worker);
    KJ_IF_MAYBE (data_plane, data_plane_) to_data_plane_->open(*data_plane);
  });
}

void Session::write_answer(schema::JoinAnswer::Builder answer, const std::string& refusal) const {
  answer.setRefusal(capnp::Text::Reader(refusal.c_str(), refusal.size()));
  if (const auto owner = owner_.lock()) {
    answer.setTerm(owner->term().value);
    if (!refusal.empty()) answer.setLeader(owner->leader());
  }
  answer.setProtocol(kProtocolVersion);
  answer.setVersion(DIRIGENT_VERSION);
}

// --- the stream ---------------------------------------------------------------------------------------------------

template <class Message>
void Session::received(Result<std::vector<Message>> messages) {
  if (phase_ != Phase::joined) return;
  if (!messages) {
    loop_.post([self = shared_from_this(), why = messages.error().message]() mutable { self->disconnect("the session broke the protocol: " + why); });
    return;
  }
  const auto owner = owner_.lock();
  if (messages->empty() || !owner) return;
  owner->counters().messages_received += messages->size();
  ++owner->counters().batches_received;
  loop_.post([owner, id = id_, batch = std::move(*messages)]() mutable {
    if (!owner->closed()) owner->said(id, std::move(batch));
  });
}

void Session::send(WorkerOrder order) {
  if (phase_ == Phase::joined && to_worker_) to_worker_->push(std::move(order));
}

void Session::send(DataPlaneOrder order) {
  if (phase_ != Phase::joined || !to_data_plane_) return;
  for (auto& part : split(std::move(order))) to_data_plane_->push(std::move(part));
}

// --- the end ------------------------------------------------------------------------------------------------------

void Session::disconnect(std::string why) {
  if (phase_ != Phase::joined) return;
  kj_.inside("saying goodbye", [&] {
    const capnp::Text::Reader text(why.c_str(), why.size());
    const auto say = [&](auto request) {
      request.setWhy(text);
      goodbye_ = request.send().then([](auto&&) {}, [](kj::Exception&&) {}).eagerlyEvaluate(nullptr);
    };
    KJ_IF_MAYBE (worker, worker_) say(worker->goodbyeRequest());
    KJ_IF_MAYBE (data_plane, data_plane_) say(data_plane->goodbyeRequest());
  });
  leave(std::move(why));
}

// What the peer says from now on is not heard; it has kLeaveTime to close.
void Session::leave(std::string why) {
  if (phase_ == Phase::over) return;
  phase_ = Phase::leaving;
  give_up_logs();
  if (to_worker_) to_worker_->close();
  if (to_data_plane_) to_data_plane_->close();
  report_over(std::move(why));
  timer_.expires_after(kLeaveTime);
  timer_.async_wait([weak = weak_from_this()](std::error_code error) {
    auto session = weak.lock();
    if (!error && session) session->end("");
  });
}

// Behind what the peer said before, which is on its way to the handler.
void Session::report_over(std::string why) {
  loop_.post([self = shared_from_this(), why = std::move(why)]() mutable {
    const auto owner = self->owner_.lock();
    if (owner && !owner->closed()) owner->over(self->id_, self->was_joined_, std::move(why));
  });
}

void Session::give_up_logs() {
  for (const auto& weak : std::exchange(pending_logs_, {})) {
    if (auto pending = weak.lock()) {
      pending->settle(failure(ErrorCode::unavailable, "the worker's session ended before it answered the question for logs"));
      pending->drop_call();
    }
  }
}

void Session::end(std::string why) {
  if (phase_ == Phase::over) return;
  if (phase_ == Phase::greeting && connection_ && why != kPeerClosed) {
    // A connection that is opened and closed in silence is a probe of the port.
    log_warn("rpc", "closed the connection of {} before it said hello: {}", connection_->peer(), why);
  }
  if (phase_ != Phase::leaving) report_over(std::move(why));
  tear_down();
  loop_.post([self = shared_from_this()] {
    if (const auto owner = self->owner_.lock()) owner->gone(self->id_);
  });
}

void Session::close() { tear_down(); }

void Session::tear_down() {
  if (phase_ == Phase::over) return;
  phase_ = Phase::over;
  timer_.cancel();
  if (to_worker_) to_worker_->close();
  if (to_data_plane_) to_data_plane_->close();
  give_up_logs();
  kj_.inside("ending a session", [this] {
    verdict_ = nullptr;
    goodbye_ = nullptr;
    worker_ = nullptr;
    data_plane_ = nullptr;
  });
  if (connection_) connection_->close();
}

}  // namespace dirigent::rpc
