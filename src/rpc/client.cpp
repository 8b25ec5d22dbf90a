// SPDX-License-Identifier: MIT
//
// The worker's and the data plane's end: one Link each, which joins, speaks, notices loss and joins again.
//
//   pausing -> dialling -> joining -> joined
//      ^           |          |         |
//      +-----------+----------+---------+   (the next address at once; a pause after the last one)
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "rpc/connection.h"
#include "rpc/convert.h"
#include "rpc/dial.h"
#include "rpc/outbox.h"

namespace dirigent::rpc {

namespace {

constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
constexpr Duration kPauseMin = 50ms;
constexpr Duration kPauseMax = 2s;
// Hints in a row that are followed at once; control planes that point at each other are paused for.
constexpr int kHintsMax = 2;
// The same trouble is not logged again before this.
constexpr Duration kRepeatedLogInterval = 30s;
// Of one answer with logs: the newest lines that fit, so that it stays far below the limit of a message.
constexpr std::size_t kLogAnswerBytesMax = std::size_t{8} << 20;

void keep_newest(LogAnswer& answer) {
  std::size_t bytes = 0;
  auto first = answer.lines.end();
  while (first != answer.lines.begin()) {
    bytes += std::prev(first)->text.size() + 32;
    if (bytes > kLogAnswerBytesMax) break;
    --first;
  }
  answer.lines.erase(answer.lines.begin(), first);
}

// What differs between the two kinds of clients.
struct WorkerKind {
  using Handler = WorkerHandler;
  using Message = WorkerMessage;
  using Order = WorkerOrder;
  using Session = schema::WorkerSession;
  static constexpr const char* kName = "worker";
};
struct DataPlaneKind {
  using Handler = DataPlaneHandler;
  using Message = DataPlaneMessage;
  using Order = DataPlaneOrder;
  using Session = schema::DataPlaneSession;
  static constexpr const char* kName = "data plane";
};

template <class Kind>
class Link : public std::enable_shared_from_this<Link<Kind>> {
 public:
  using Handler = typename Kind::Handler;
  using Orders = std::vector<typename Kind::Order>;

  Link(io::Loop& loop, ClientOptions options, Handler& handler)
      : loop_(loop), kj_(KjLoop::of(loop)), options_(std::move(options)), handler_(handler), rng_(entropy_seed()), timer_(loop.context()), close_timer_(loop.context()) {
    ASSERT(!options_.control.empty(), "a client needs the address of a control plane");
  }

  void start() {
    loop_.post([weak = this->weak_from_this()] {
      if (auto self = weak.lock()) self->attempt();
    });
  }
  [[nodiscard]] LinkState state() const { return joined_ ? LinkState::joined : LinkState::connecting; }
  [[nodiscard]] LinkCounters counters() const { return counters_; }
  void send(typename Kind::Message message) {
    if (outbox_ && !quiet_) outbox_->push(std::move(message));
  }

  // No callbacks from now on.
  void be_quiet() {
    quiet_ = true;
    if (joined_ && outbox_) outbox_->ask_for_answers();
  }
  [[nodiscard]] bool has_unsent() const { return joined_ && outbox_ && !outbox_->empty(); }
  asio::steady_timer& close_timer() { return close_timer_; }
  void abandon() {
    quiet_ = true;
    closed_ = true;
    timer_.cancel();
    close_timer_.cancel();
    if (auto dial = std::exchange(dial_, nullptr)) dial->cancel();
    tear_down();
  }

  // --- called by the RPC methods, inside KJ events
  template <class List>
  void received(List list);
  void answer_logs(LogQuery query, kj::Own<kj::PromiseFulfiller<LogAnswer>> fulfiller);
  void said_goodbye(std::string why) {
    loop_.post([self = this->shared_from_this(), session = session_, why = std::move(why)] {
      if (self->connection_ && self->session_ == session) self->connection_->fail("the control plane ended the session: " + why);
    });
  }

 private:
  void attempt();
  void connected(Result<Socket> socket);
  kj::Promise<std::string> say_hello(schema::ControlPlane::Client control, const WorkerHello& hello);
  kj::Promise<std::string> say_hello(schema::ControlPlane::Client control, const DataPlaneHello& hello);
  template <class Results>
  std::string welcome(const Results& results);
  void joined();
  void ended(std::string why);
  void try_again(const std::string& why);
  void complain(const std::string& why);
  void tear_down();
  Result<Orders> complete(Result<std::vector<WorkerOrder>> orders) { return orders; }
  Result<Orders> complete(Result<std::vector<OrderPart>> parts) {
    if (!parts) return failure(parts.error());
    return joiner_.join(std::move(*parts));
  }

  io::Loop& loop_;
  KjLoop& kj_;
  ClientOptions options_;
  Handler& handler_;
  Rng rng_;
  asio::steady_timer timer_;  // pauses, and the wait for the answer to a hello
  asio::steady_timer close_timer_;
  LinkCounters counters_;
  bool quiet_ = false;
  bool closed_ = false;

  std::size_t next_address_ = 0;
  std::size_t tried_ = 0;  // addresses since the last pause
  Duration pause_ = kPauseMin;
  std::string address_;  // of the present attempt or session
  std::string hint_;     // where the control plane that refused us says to go
  int hints_ = 0;        // followed since the last pause or session
  std::string last_complaint_;
  Instant last_complaint_at_{};

  std::uint64_t session_ = 0;  // grows with every connection
  bool joined_ = false;        // and joined() has been called
  Instant joined_at_{};
  Term term_;
  Orders early_orders_;  // arrived before joined() was called
  OrderJoiner joiner_;
  std::shared_ptr<Dial> dial_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Outbox<typename Kind::Session, typename Kind::Message>> outbox_;
  kj::Promise<void> joining_ = nullptr;
};

// What the control plane calls on a worker.
class WorkerEnd final : public schema::Worker::Server {
 public:
  explicit WorkerEnd(std::weak_ptr<Link<WorkerKind>> link) : link_(std::move(link)) {}
  kj::Promise<void> deliver(DeliverContext context) override {
    if (auto link = link_.lock()) link->received(context.getParams().getMessages());
    return kj::READY_NOW;
  }
  kj::Promise<void> logs(LogsContext context) override {
    auto link = link_.lock();
    auto query = read(context.getParams().getQuery());
    if (!link || !query) return KJ_EXCEPTION(FAILED, "the question for logs cannot be answered");
    auto pair = kj::newPromiseAndFulfiller<LogAnswer>();
    link->answer_logs(*query, kj::mv(pair.fulfiller));
    return pair.promise.then([context](LogAnswer&& answer) mutable { write(context.getResults().initAnswer(), answer); });
  }
  kj::Promise<void> goodbye(GoodbyeContext context) override {
    const auto why = context.getParams().getWhy();
    if (auto link = link_.lock()) link->said_goodbye(std::string(why.begin(), why.end()));
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<Link<WorkerKind>> link_;
};

// What the control plane calls on a data plane.
class DataPlaneEnd final : public schema::DataPlane::Server {
 public:
  explicit DataPlaneEnd(std::weak_ptr<Link<DataPlaneKind>> link) : link_(std::move(link)) {}
  kj::Promise<void> deliver(DeliverContext context) override {
    if (auto link = link_.lock()) link->received(context.getParams().getMessages());
    return kj::READY_NOW;
  }
  kj::Promise<void> goodbye(GoodbyeContext context) override {
    const auto why = context.getParams().getWhy();
    if (auto link = link_.lock()) link->said_goodbye(std::string(why.begin(), why.end()));
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<Link<DataPlaneKind>> link_;
};

// --- joining ------------------------------------------------------------------------------------------------------

template <class Kind>
void Link<Kind>::attempt() {
  if (closed_ || quiet_) return;
  Address address{std::exchange(hint_, "")};
  if (address.text.empty()) {
    address = options_.control[next_address_++ % options_.control.size()];
    ++tried_;
  }
  address_ = address.text;
  dial_ = Dial::start(loop_, address, options_.connect_timeout, [weak = this->weak_from_this()](Result<Socket> socket) {
    if (auto self = weak.lock()) self->connected(std::move(socket));
  });
}

template <class Kind>
void Link<Kind>::connected(Result<Socket> socket) {
  dial_ = nullptr;
  if (closed_ || quiet_) return;
  if (!socket) {
    try_again(socket.error().message);
    return;
  }
  tune(*socket, options_.silence_max);
  // From here on messages are kept: the hello cannot know of them.
  ++session_;
  early_orders_.clear();
  joiner_ = OrderJoiner{};
  const auto weak = this->weak_from_this();
  const auto end = [weak](std::string why) {
    if (auto self = weak.lock()) self->ended(std::move(why));
  };
  const auto drained = [weak] {
    auto self = weak.lock();
    if (self && self->quiet_) self->close_timer_.cancel();
  };
  using Box = Outbox<typename Kind::Session, typename Kind::Message>;
  outbox_ = std::make_shared<Box>(kj_, counters_, typename Box::Hooks{end, drained});
  const auto hello = handler_.hello();
  if (closed_ || quiet_) return;
  connection_ = Connection::open(kj_, std::move(*socket), address_, Connection::Side::client, nullptr, options_.silence_max, ConnectionHooks{end});
  kj_.inside("saying hello", [&] {
    auto answered = [this](std::string refusal) {
      loop_.post([self = this->shared_from_this(), session = session_, why = std::move(refusal)]() mutable {
        if (self->session_ != session || !self->connection_) return;
        if (why.empty()) {
          self->joined();
        } else {
          self->ended(fmt::format("{} refused the hello of this {}: {}", self->address_, Kind::kName, why));
        }
      });
    };
    // A broken connection is reported by itself; what remains is a peer that does not know the call.
    auto failed = [this](kj::Exception&& exception) {
      if (connection_) connection_->fail("the hello failed: " + words(exception));
    };
    joining_ = say_hello(connection_->bootstrap().template castAs<schema::ControlPlane>(), hello).then(kj::mv(answered), kj::mv(failed)).eagerlyEvaluate(nullptr);
  });
  kj_.pump();
  timer_.expires_after(options_.silence_max);
  timer_.async_wait([weak, session = session_, limit = options_.silence_max](std::error_code error) {
    auto self = weak.lock();
    if (error || !self || self->session_ != session || self->joined_ || !self->connection_) return;
    self->connection_->fail(fmt::format("the hello was not answered within {}", format_duration(limit)));
  });
}

template <class Kind>
kj::Promise<std::string> Link<Kind>::say_hello(schema::ControlPlane::Client control, const WorkerHello& hello) {
  auto request = control.joinWorkerRequest(capnp::MessageSize{(weight(hello) + 256) / sizeof(capnp::word), 1});
  write(request.initHello(), hello);
  request.setWorker(kj::heap<WorkerEnd>(this->weak_from_this()));
  return request.send().then([this](auto&& response) { return welcome(response); });
}

template <class Kind>
kj::Promise<std::string> Link<Kind>::say_hello(schema::ControlPlane::Client control, const DataPlaneHello& hello) {
  auto request = control.joinDataPlaneRequest();
  write(request.initHello(), hello);
  request.setDataPlane(kj::heap<DataPlaneEnd>(this->weak_from_this()));
  return request.send().then([this](auto&& response) { return welcome(response); });
}

// Inside a KJ event. The refusal, or "" and the outbox is open.
template <class Kind>
template <class Results>
std::string Link<Kind>::welcome(const Results& results) {
  const auto answer = results.getAnswer();
  const auto text = answer.getRefusal();
  if (text.size() > 0) {
    const auto leader = answer.getLeader();
    if (hints_ < kHintsMax) hint_.assign(leader.begin(), leader.size());
    return std::string(text.begin(), text.end());
  }
  if (!results.hasSession()) return "the answer has no session";
  term_.value = answer.getTerm();
  if (outbox_) outbox_->open(results.getSession());
  return "";
}

template <class Kind>
void Link<Kind>::joined() {
  timer_.cancel();
  joined_ = true;
  joined_at_ = io::Loop::now();
  last_complaint_.clear();
  hints_ = 0;
  log_debug("rpc", "this {} joined the control plane at {}, term {}", Kind::kName, address_, term_.value);
  if (quiet_) return;
  handler_.joined(term_);
  if (quiet_ || early_orders_.empty()) return;
  handler_.ordered(std::exchange(early_orders_, {}));
}

// --- the stream ---------------------------------------------------------------------------------------------------

template <class Kind>
template <class List>
void Link<Kind>::received(List list) {
  auto orders = complete(read(list));
  if (!orders) {
    if (connection_) connection_->fail("the control plane broke the protocol: " + orders.error().message);
    return;
  }
  if (list.size() == 0) return;
  counters_.messages_received += list.size();
  ++counters_.batches_received;
  if (orders->empty()) return;
  loop_.post([self = this->shared_from_this(), session = session_, batch = std::move(*orders)]() mutable {
    if (self->quiet_ || self->session_ != session) return;
    if (self->joined_) {
      self->handler_.ordered(std::move(batch));
    } else {
      std::move(batch.begin(), batch.end(), std::back_inserter(self->early_orders_));
    }
  });
}

template <class Kind>
void Link<Kind>::answer_logs(LogQuery query, kj::Own<kj::PromiseFulfiller<LogAnswer>> fulfiller) {
  if constexpr (std::is_same_v<Kind, WorkerKind>) {
    loop_.post([self = this->shared_from_this(), query, waiting = kj::mv(fulfiller)]() mutable {
      if (self->quiet_) {
        self->kj_.inside("answering for logs", [&] { waiting->reject(KJ_EXCEPTION(FAILED, "the worker is shutting down")); });
      } else {
        LogAnswer answer = self->handler_.logs(query);
        keep_newest(answer);
        self->kj_.inside("answering for logs", [&] { waiting->fulfill(kj::mv(answer)); });
      }
      self->kj_.pump();
    });
  }
}

// --- the end, and the next beginning ------------------------------------------------------------------------------

template <class Kind>
void Link<Kind>::ended(std::string why) {
  if (closed_) return;
  timer_.cancel();
  close_timer_.cancel();
  tear_down();
  // Behind the orders that came before, which are on their way to the handler.
  loop_.post([self = this->shared_from_this(), session = session_, why = std::move(why)]() mutable {
    if (self->closed_ || self->session_ != session) return;
    ++self->session_;
    const bool was_joined = std::exchange(self->joined_, false);
    if (was_joined) {
      self->tried_ = 0;
      if (io::Loop::now() - self->joined_at_ >= kPauseMax) self->pause_ = kPauseMin;
      if (!self->quiet_) self->handler_.lost(why);
    }
    if (!self->quiet_) self->try_again(why);
  });
}

template <class Kind>
void Link<Kind>::try_again(const std::string& why) {
  complain(why);
  const auto again = [weak = this->weak_from_this()](std::error_code error = {}) {
    auto self = weak.lock();
    if (!error && self) self->attempt();
  };
  if (!hint_.empty()) {
    ++hints_;
    loop_.post(again);
    return;
  }
  // One address alone is paused for after every attempt; of several, each gets its try before the pause.
  if (options_.control.size() > 1 && tried_ < options_.control.size()) {
    loop_.post(again);
    return;
  }
  tried_ = hints_ = 0;
  // Between half and all of the pause, so that a cluster's clients do not come back in step.
  const auto pause = Duration(static_cast<Duration::rep>(static_cast<double>(pause_.count()) * (0.5 + 0.5 * rng_.unit())));
  pause_ = std::min(pause_ * 2, kPauseMax);
  timer_.expires_after(pause);
  timer_.async_wait(again);
}

template <class Kind>
void Link<Kind>::complain(const std::string& why) {
  const Instant now = io::Loop::now();
  if (why == last_complaint_ && now - last_complaint_at_ < kRepeatedLogInterval) {
    log_debug("rpc", "this {} is not joined: {}", Kind::kName, why);
    return;
  }
  last_complaint_ = why;
  last_complaint_at_ = now;
  log_warn("rpc", "this {} is not joined ({}): {}; it keeps trying", Kind::kName, address_, why);
}

template <class Kind>
void Link<Kind>::tear_down() {
  kj_.inside("ending a session", [this] { joining_ = nullptr; });
  if (auto outbox = std::exchange(outbox_, nullptr)) outbox->close();
  if (auto connection = std::exchange(connection_, nullptr)) connection->close();
}

template <class Kind>
io::Action close_link(std::shared_ptr<Link<Kind>> link, Duration timeout) {
  link->be_quiet();
  if (link->has_unsent()) {
    link->close_timer().expires_after(timeout);
    std::error_code woken;
    co_await link->close_timer().async_wait(asio::redirect_error(use_task, woken));
  }
  link->abandon();
}

template <class Client, class Kind>
class ClientHandle final : public Client {
 public:
  ClientHandle(io::Loop& loop, ClientOptions options, typename Kind::Handler& handler)
      : link_(std::make_shared<Link<Kind>>(loop, std::move(options), handler)) {
    link_->start();
  }
  ~ClientHandle() override { link_->abandon(); }
  [[nodiscard]] LinkState state() const override { return link_->state(); }
  [[nodiscard]] LinkCounters counters() const override { return link_->counters(); }
  void send(typename Kind::Message message) override { link_->send(std::move(message)); }
  io::Action close(Duration timeout) override { return close_link<Kind>(link_, timeout); }

 private:
  std::shared_ptr<Link<Kind>> link_;
};

}  // namespace

std::unique_ptr<WorkerClient> connect_worker(io::Loop& loop, ClientOptions options, WorkerHandler& handler) {
  return std::make_unique<ClientHandle<WorkerClient, WorkerKind>>(loop, std::move(options), handler);
}

std::unique_ptr<DataPlaneClient> connect_data_plane(io::Loop& loop, ClientOptions options, DataPlaneHandler& handler) {
  return std::make_unique<ClientHandle<DataPlaneClient, DataPlaneKind>>(loop, std::move(options), handler);
}

}  // namespace dirigent::rpc
