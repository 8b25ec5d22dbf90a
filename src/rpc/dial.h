// SPDX-License-Identifier: MIT
//
// Addresses made into sockets: listening ones at once, connected ones with a deadline.
#pragma once

#include <asio/basic_socket_acceptor.hpp>
#include <asio/generic/stream_protocol.hpp>

#include <functional>
#include <memory>
#include <string>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/io/loop.h"
#include "dirigent/rpc/cluster.h"
#include "rpc/wire.h"

namespace dirigent::rpc {

struct AddressParts {
  std::string unix_path;  // not empty for unix:/path
  std::string host;       // else a number or a name, without brackets
  std::string port;       // decimal
};
// The error names what is wrong and shows the accepted forms.
Result<AddressParts> parse_address(const Address& address);

struct Listener {
  asio::basic_socket_acceptor<asio::generic::stream_protocol> acceptor;
  Address address;        // with the real port
  std::string unix_path;  // to be unlinked when listening ends; empty for TCP
};
// Host names are resolved here, blocking: at start-up only. A Unix socket that nobody listens on any more is replaced.
Result<Listener> listen_at(io::Loop& loop, const Address& address);

// TCP_NODELAY, keepalive, and an end to connections whose bytes stay unacknowledged for `silence_max`.
void tune(Socket& socket, Duration silence_max);
// "127.0.0.1:40312", "[::1]:40312", "unix:/path" or "process 4711 over a Unix socket".
std::string peer_name(Socket& socket);

// One attempt to connect. `done` is called once, from a handler of its own, unless cancel() came first.
class Dial : public std::enable_shared_from_this<Dial> {
 public:
  using Done = std::function<void(Result<Socket>)>;
  static std::shared_ptr<Dial> start(io::Loop& loop, const Address& address, Duration timeout, Done done);
  virtual ~Dial() = default;
  virtual void cancel() = 0;
};

}  // namespace dirigent::rpc
