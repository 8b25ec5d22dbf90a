// SPDX-License-Identifier: MIT
//
// Connection: a Wire with an RPC system on it, watched for silence: each side sends a sign of life when it has sent nothing
// for a while. Both roles' sessions are built on it.
//
// It ends once, for one reason: the peer closed, the wire broke, the peer was silent for `silence_max`, or the owner
// called fail(). `ended` is then called from a handler of its own, never from inside a method. KJ objects live until
// close(); all methods belong to the loop's thread and are called outside KJ events.
#pragma once

#include <capnp/rpc-twoparty.h>

#include <functional>
#include <memory>
#include <string>

#include "rpc/kj_loop.h"
#include "rpc/wire.h"

namespace dirigent::rpc {

struct ConnectionHooks {
  std::function<void(std::string why)> ended;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  enum class Side { client, server };

  // `offered` is the bootstrap capability of a server; a client passes nullptr. Takes the socket.
  static std::shared_ptr<Connection> open(KjLoop& kj, Socket socket, std::string peer, Side side,
                                          kj::Maybe<capnp::Capability::Client> offered, Duration silence_max, ConnectionHooks hooks);
  Connection(KjLoop& kj, Side side, Duration silence_max, ConnectionHooks hooks);
  ~Connection();

  // The peer's bootstrap capability. Inside KjLoop::inside() only; REQUIRES: not closed.
  capnp::Capability::Client bootstrap();

  // Ends it for a reason of ours: `ended` will be called with it.
  void fail(std::string why);
  // Destroys the RPC system (pending calls fail) and the wire, without a call of `ended`. May be repeated. Not from
  // inside a KJ event.
  void close();
  [[nodiscard]] bool closed() const { return wire_ == nullptr; }
  [[nodiscard]] const std::string& peer() const { return peer_; }
  // When bytes of the peer came last; of a closed connection, the beginning of time.
  [[nodiscard]] Instant last_received() const { return wire_ ? wire_->last_received() : Instant{}; }

 private:
  void watch();
  void look();
  void end(std::string why);

  KjLoop& kj_;
  Duration silence_max_;
  Duration ping_interval_;
  ConnectionHooks hooks_;
  std::string peer_;
  std::shared_ptr<Wire> wire_;
  kj::Own<capnp::MessageStream> stream_;
  kj::Own<capnp::TwoPartyVatNetwork> network_;
  kj::Maybe<capnp::RpcSystem<capnp::rpc::twoparty::VatId>> rpc_;
  kj::Promise<void> disconnected_ = nullptr;
  TimerNode timer_;
  Instant look_due_{};
  bool second_look_ = false;
};

}  // namespace dirigent::rpc
