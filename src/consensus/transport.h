// SPDX-License-Identifier: MIT
//
// How a member reaches the others. On the thread of its Replica; the callbacks come from handlers of its loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "consensus/messages.h"
#include "dirigent/io/loop.h"

namespace dirigent::consensus {

struct TransportHooks {
  std::function<void(Message message)> received;
  // A connection to the peer is there, and what the peer announces of itself. Alternates with lost.
  std::function<void(MemberId peer, std::string note)> found;
  std::function<void(MemberId peer, std::string why)> lost;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Hooks are called from now on.
  virtual void start(TransportHooks hooks) = 0;
  // Whom to keep a connection to.
  virtual void follow(const std::vector<Member>& members) = 0;
  // Dropped when there is no connection. Never blocks.
  virtual void send(Message message) = 0;
  // The address of the peer port, with the real port; empty when there is none.
  [[nodiscard]] virtual std::string address() const = 0;
  // No hook is called any more.
  virtual void close() = 0;
};

struct RpcTransportOptions {
  MemberId self;
  std::string listen;
  std::string note;
  Duration silence_max = 1s;       // of a connection
  Duration connect_timeout = 500ms;
  Duration retry = 50ms;           // between attempts to connect
};
// Cap'n Proto RPC, schemas/consensus.capnp. Listens when this returns. Errors: as rpc::serve_control.
Result<std::unique_ptr<Transport>> rpc_transport(io::Loop& loop, RpcTransportOptions options);

}  // namespace dirigent::consensus
