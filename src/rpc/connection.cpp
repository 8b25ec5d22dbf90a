// SPDX-License-Identifier: MIT
#include "rpc/connection.h"

#include <fmt/core.h>

#include <algorithm>

#include "dirigent/base/assert.h"

namespace dirigent::rpc {

namespace {

// A control plane learns from three seconds without a sign of life that a node is gone, so that two in three seconds are
// what it needs. That it lives itself, its thousands of peers need not hear as often: the kernel tells them when it is cut
// off, so this is about a process that hangs. Shorter limits (tests, fast failover) scale both down.
constexpr Duration kClientPingInterval = 1200ms;
constexpr Duration kServerPingInterval = 2s;
// What the calls of one peer may take in memory while they are being served, in words: four of the largest messages.
constexpr std::size_t kFlowWordsMax = 4 * kMessageBytesMax / sizeof(capnp::word);

capnp::ReaderOptions reader_options() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kTraversalWordsMax;
  return options;
}

}  // namespace

Connection::Connection(KjLoop& kj, Side side, Duration silence_max, ConnectionHooks hooks)
    : kj_(kj), silence_max_(silence_max),
      ping_interval_(side == Side::client ? std::min(kClientPingInterval, silence_max * 2 / 5) : std::min(kServerPingInterval, silence_max * 2 / 3)), hooks_(std::move(hooks)) {
  timer_.owner = this;
  timer_.fire = [](void* owner, Instant) {
    auto self = static_cast<Connection*>(owner)->weak_from_this().lock();
    if (self && self->wire_ && !self->wire_->ended()) self->look();
  };
}

Connection::~Connection() {
  close();
  kj_.forget(timer_);
}

std::shared_ptr<Connection> Connection::open(KjLoop& kj, Socket socket, std::string peer, Side side,
                                             kj::Maybe<capnp::Capability::Client> offered, Duration silence_max, ConnectionHooks hooks) {
  auto self = std::make_shared<Connection>(kj, side, silence_max, std::move(hooks));
  std::weak_ptr<Connection> weak = self;
  self->peer_ = peer;
  self->wire_ = std::make_shared<Wire>(kj, std::move(socket), std::move(peer), [weak](std::string why) {
    if (auto connection = weak.lock()) connection->end(std::move(why));
  });
  kj.inside("opening a connection", [&] {
    using Network = capnp::TwoPartyVatNetwork;
    const auto which = side == Side::client ? capnp::rpc::twoparty::Side::CLIENT : capnp::rpc::twoparty::Side::SERVER;
    self->stream_ = self->wire_->stream();
    self->network_ = kj::heap<Network>(*self->stream_, which, reader_options());
    KJ_IF_MAYBE (capability, offered) {
      self->rpc_.emplace(capnp::makeRpcServer(*self->network_, kj::mv(*capability)));
    } else {
      self->rpc_.emplace(capnp::makeRpcClient(*self->network_));
    }
    KJ_ASSERT_NONNULL(self->rpc_).setFlowLimit(kFlowWordsMax);
    // The RPC system drops a connection whose peer breaks its rules; the wire itself would stay open.
    auto broken = [weak] {
      if (auto connection = weak.lock(); connection && connection->wire_) {
        connection->wire_->fail("the peer ended the RPC session, or broke its rules");
      }
    };
    self->disconnected_ = self->network_->onDisconnect().then(kj::mv(broken), [](kj::Exception&&) {}).eagerlyEvaluate(nullptr);
  });
  self->watch();
  return self;
}

capnp::Capability::Client Connection::bootstrap() {
  capnp::MallocMessageBuilder message(8);
  auto vat = message.initRoot<capnp::rpc::twoparty::VatId>();
  vat.setSide(capnp::rpc::twoparty::Side::SERVER);
  return KJ_ASSERT_NONNULL(rpc_).bootstrap(vat);
}

void Connection::fail(std::string why) {
  if (wire_) wire_->fail(std::move(why));
}

void Connection::end(std::string why) {
  kj_.forget(timer_);
  if (auto ended = std::exchange(hooks_.ended, nullptr)) ended(std::move(why));
}

void Connection::close() {
  if (!wire_) return;
  hooks_ = {};
  kj_.forget(timer_);
  const auto wire = std::exchange(wire_, nullptr);
  kj_.inside("closing a connection", [this] {
    disconnected_ = nullptr;
    rpc_ = nullptr;
    network_ = nullptr;
  });
  wire->close();
  kj_.inside("closing a connection", [this] { stream_ = nullptr; });
}

// --- silence ------------------------------------------------------------------------------------------------------

void Connection::watch() {
  const Instant now = io::Loop::now();
  const Instant due = std::min(wire_->last_received() + silence_max_, wire_->last_sent() + ping_interval_);
  // The floor of the interval keeps a ping that cannot be sent from spinning.
  look_due_ = std::max(due, now + ping_interval_ / 4);
  kj_.wake(timer_, look_due_);
}

void Connection::look() {
  const Instant now = io::Loop::now();
  const Duration silent = now - wire_->last_received();
  if (silent >= silence_max_) {
    // When this process itself was held up, the peer's words lie unread in the socket: one more interval to read them.
    const bool held_up = now - look_due_ > silence_max_ / 4;
    if (!held_up || second_look_) {
      wire_->fail(fmt::format("nothing was heard from the peer for {}", format_duration(silent)));
      return;
    }
    second_look_ = true;
  } else {
    second_look_ = false;
  }
  if (now - wire_->last_sent() >= ping_interval_) wire_->ping();
  watch();
}

}  // namespace dirigent::rpc
