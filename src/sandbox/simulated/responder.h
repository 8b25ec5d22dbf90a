// SPDX-License-Identifier: MIT
//
// A tiny HTTP/1.1 server that gives the same answer to every request: what the addresses of simulated sandboxes lead
// to.
#pragma once

#include <asio/ip/tcp.hpp>

#include <memory>
#include <string>
#include <unordered_set>

#include "dirigent/io/loop.h"
#include "dirigent/base/result.h"

namespace dirigent::sandbox {

class Responder {
 public:
  explicit Responder(io::Loop& loop) : loop_(loop), acceptor_(loop.context().get_executor()) {}
  // Listens on `host`, any port.
  Status open(const std::string& host);
  [[nodiscard]] std::uint16_t port() const { return port_; }
  // Closes every connection; may be destroyed after the loop's next turns (connections hold what they need).
  void close();

 private:
  using Socket = asio::basic_stream_socket<asio::ip::tcp, asio::io_context::executor_type>;
  struct Connection;
  using Connections = std::unordered_set<std::shared_ptr<Connection>>;
  void accept();

  io::Loop& loop_;
  asio::basic_socket_acceptor<asio::ip::tcp, asio::io_context::executor_type> acceptor_;
  std::uint16_t port_ = 0;
  std::shared_ptr<Connections> connections_ = std::make_shared<Connections>();
};

}  // namespace dirigent::sandbox
