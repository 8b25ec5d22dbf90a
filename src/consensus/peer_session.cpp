// SPDX-License-Identifier: MIT
#include "consensus/peer_session.h"

#include "dirigent/base/log.h"
#include "rpc/dial.h"

namespace dirigent::consensus {

namespace {

constexpr std::uint32_t kPeerProtocol = 1;

class Sink final : public schema::PeerSink::Server {
 public:
  explicit Sink(std::weak_ptr<PeerSession> session) : session_(std::move(session)) {}
  kj::Promise<void> deliver(DeliverContext context) override {
    if (auto session = session_.lock()) session->read_batch(context.getParams().getMessages());
    return kj::READY_NOW;
  }

 private:
  std::weak_ptr<PeerSession> session_;
};

class GateEnd final : public schema::Gate::Server {
 public:
  explicit GateEnd(std::weak_ptr<PeerSession> session) : session_(std::move(session)) {}
  kj::Promise<void> greet(GreetContext context) override {
    auto session = session_.lock();
    if (!session) return KJ_EXCEPTION(DISCONNECTED, "the session is over");
    auto params = context.getParams();
    kj::Maybe<schema::PeerSink::Client> sink;
    if (params.hasSink()) sink = params.getSink();
    return session->greet(params.getHello(), kj::mv(sink)).then([context, weak = session_](std::string refusal) mutable {
      auto alive = weak.lock();
      if (!alive) return;
      auto results = context.getResults();
      results.setRefusal(refusal);
      alive->write_hello(results.initHello(), alive->peer());
      if (refusal.empty()) results.setSink(kj::heap<Sink>(weak));
    });
  }

 private:
  std::weak_ptr<PeerSession> session_;
};

}  // namespace

PeerSession::PeerSession(io::Loop& loop, const RpcTransportOptions& options, PeerSessionHooks hooks)
    : loop_(loop), kj_(rpc::KjLoop::of(loop)), options_(options), hooks_(std::move(hooks)), timer_(loop.context()) {}

PeerSession::~PeerSession() noexcept { close(); }

void PeerSession::open(rpc::Socket socket, MemberId expected) {
  peer_ = expected;
  is_ours_ = expected.value != 0;
  rpc::tune(socket, options_.silence_max);
  std::string name = rpc::peer_name(socket);
  const auto weak = weak_from_this();
  const auto ended = [weak](std::string why) {
    if (auto session = weak.lock()) session->end(std::move(why));
  };
  outbox_ = std::make_shared<Box>(kj_, counters_, Box::Hooks{ended, {}});
  kj::Maybe<capnp::Capability::Client> offered;
  if (!is_ours_) kj_.inside("accepting a peer", [&] { offered = capnp::Capability::Client(kj::heap<GateEnd>(weak)); });
  const auto side = is_ours_ ? rpc::Connection::Side::client : rpc::Connection::Side::server;
  connection_ = rpc::Connection::open(kj_, std::move(socket), std::move(name), side, kj::mv(offered), options_.silence_max, {ended});
  if (is_ours_) say_hello();
  timer_.expires_after(options_.silence_max);
  timer_.async_wait([weak](std::error_code error) {
    auto session = weak.lock();
    if (!error && session && !session->is_greeted_) session->end("no greeting came in time");
  });
}

// --- the greeting -------------------------------------------------------------------------------------------------

void PeerSession::write_hello(schema::PeerHello::Builder to, MemberId peer) const {
  to.setProtocol(kPeerProtocol);
  to.setFrom(options_.self.value);
  to.setTo(peer.value);
  to.setNote(options_.note);
  to.setVersion(DIRIGENT_VERSION);
}

PeerSession::Hello PeerSession::read_hello(schema::PeerHello::Reader from) {
  const auto note = from.getNote();
  return {from.getProtocol(), MemberId{from.getFrom()}, MemberId{from.getTo()}, std::string(note.begin(), note.size())};
}

std::string PeerSession::objection(const Hello& hello) const {
  if (hello.protocol + 1 < kPeerProtocol || hello.protocol > kPeerProtocol + 1) {
    return fmt::format("the peer speaks protocol {}, this member {}: they may differ by one (upgrade the older of the two)", hello.protocol, kPeerProtocol);
  }
  if (hello.to != options_.self) return fmt::format("this is member {}, the peer looked for member {} (are --peers the same everywhere?)", options_.self, hello.to);
  if (hello.from == options_.self) return fmt::format("the peer says that it is member {} as well (is the id given twice?)", hello.from);
  if (hello.from.value == 0 || (is_ours_ && hello.from != peer_)) return fmt::format("the peer says that it is member {}, not {}", hello.from, peer_);
  return "";
}

void PeerSession::say_hello() {
  kj_.inside("greeting a peer", [&] {
    auto request = connection_->bootstrap().castAs<schema::Gate>().greetRequest();
    write_hello(request.initHello(), peer_);
    request.setSink(kj::heap<Sink>(weak_from_this()));
    auto answered = [weak = weak_from_this()](capnp::Response<schema::Gate::GreetResults>&& response) {
      auto session = weak.lock();
      if (!session) return;
      if (response.hasSink()) session->sink_ = response.getSink();
      const auto refusal = response.getRefusal();
      session->loop_.post([session, hello = read_hello(response.getHello()), why = std::string(refusal.begin(), refusal.size())]() mutable {
        session->decide(std::move(hello), std::move(why));
      });
    };
    auto failed = [weak = weak_from_this()](kj::Exception&& exception) {
      auto session = weak.lock();
      if (session && session->connection_) session->connection_->fail("the greeting failed: " + rpc::words(exception));
    };
    greeting_ = request.send().then(kj::mv(answered), kj::mv(failed)).eagerlyEvaluate(nullptr);
  });
  kj_.pump();
}

kj::Promise<std::string> PeerSession::greet(schema::PeerHello::Reader hello, kj::Maybe<schema::PeerSink::Client> sink) {
  if (peer_.value != 0 || is_over_) return std::string("one connection greets once");
  auto read = read_hello(hello);
  peer_ = read.from;
  sink_ = kj::mv(sink);
  auto pair = kj::newPromiseAndFulfiller<std::string>();
  verdict_ = kj::mv(pair.fulfiller);
  loop_.post([self = shared_from_this(), read = std::move(read)]() mutable { self->decide(std::move(read), ""); });
  return kj::mv(pair.promise);
}

void PeerSession::decide(Hello hello, std::string refusal) {
  if (is_over_ || is_greeted_) return;
  if (refusal.empty()) refusal = objection(hello);
  if (refusal.empty() && sink_ == nullptr) refusal = "the greeting has no capability to send to";
  if (refusal.empty()) refusal = hooks_.greeted(shared_from_this(), hello.from, std::move(hello.note));
  if (is_over_) return;
  KJ_IF_MAYBE (verdict, verdict_) {
    kj_.inside("answering a greeting", [&] { (*verdict)->fulfill(std::string(refusal)); });
    verdict_ = nullptr;
    kj_.pump();
  }
  if (!refusal.empty()) {
    // What was refused shall hear why before it is cut off; the timer of the greeting ends it.
    if (is_ours_) end("refused: " + refusal);
    return;
  }
  is_greeted_ = true;
  timer_.cancel();
  kj_.inside("opening a peer session", [this] {
    KJ_IF_MAYBE (sink, sink_) outbox_->open(*sink);
  });
}

// --- the stream ---------------------------------------------------------------------------------------------------

void PeerSession::send(Message message) {
  if (outbox_ && !is_over_) outbox_->push(std::move(message));
}

void PeerSession::read_batch(capnp::List<schema::PeerMessage>::Reader list) {
  if (is_over_ || list.size() == 0) return;
  auto messages = read(list, peer_, options_.self);
  loop_.post([self = shared_from_this(), messages = std::move(messages)]() mutable {
    if (self->is_over_) return;
    if (!messages) {
      self->end("the peer broke the protocol: " + messages.error().message);
    } else {
      self->hooks_.received(*self, std::move(*messages));
    }
  });
}

// --- the end ------------------------------------------------------------------------------------------------------

void PeerSession::end(std::string why) {
  if (is_over_) return;
  auto ended = std::move(hooks_.ended);
  const auto self = shared_from_this();
  close();
  if (ended) ended(*this, std::move(why));
}

void PeerSession::close() {
  if (std::exchange(is_over_, true)) return;
  timer_.cancel();
  hooks_ = {};
  if (outbox_) outbox_->close();
  kj_.inside("closing a peer session", [this] {
    verdict_ = nullptr;
    greeting_ = nullptr;
    sink_ = nullptr;
  });
  if (connection_) connection_->close();
}

}  // namespace dirigent::consensus
