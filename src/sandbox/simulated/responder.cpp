// SPDX-License-Identifier: MIT
#include "sandbox/simulated/responder.h"

#include <asio/write.hpp>

#include <array>

#include "sandbox/cell/http_reader.h"

namespace dirigent::sandbox {

struct Responder::Connection : std::enable_shared_from_this<Connection> {
  Connection(Socket s, std::weak_ptr<Connections> all) : socket(std::move(s)), owner(std::move(all)) {}

  void read() {
    socket.async_read_some(asio::buffer(buffer), [self = shared_from_this()](std::error_code error, std::size_t size) {
      if (error) return self->forget();
      self->reader.append(self->buffer.data(), size);
      self->answer();
    });
  }

  void answer() {
    out.clear();
    bool keep = true;
    while (keep) {
      const auto next = reader.next();
      if (next == cell::RequestReader::Next::more) {
        if (reader.take_expectation()) out += "HTTP/1.1 100 Continue\r\n\r\n";
        break;
      }
      if (next == cell::RequestReader::Next::failed) return forget();
      const cell::Request request = reader.take();
      keep = request.keep_alive;
      out += "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n";
      if (!keep) out += "Connection: close\r\n";
      out += request.method == "HEAD" ? "\r\n" : "\r\nsimulated\n";
    }
    if (out.empty()) return read();
    asio::async_write(socket, asio::buffer(out), [self = shared_from_this(), keep](std::error_code error, std::size_t) {
      if (error || !keep) return self->forget();
      self->read();
    });
  }

  void forget() {
    std::error_code ignored;
    socket.close(ignored);
    if (const auto all = owner.lock()) all->erase(shared_from_this());
  }

  Socket socket;
  std::weak_ptr<Connections> owner;
  cell::RequestReader reader;
  std::array<char, 1024> buffer;  // thousands of these are made in a second; what is larger comes in pieces
  std::string out;
};

Status Responder::open(const std::string& host) {
  std::error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (!error) acceptor_.open(address.is_v6() ? asio::ip::tcp::v6() : asio::ip::tcp::v4(), error);
  if (!error) acceptor_.bind({address, 0}, error);
  if (!error) acceptor_.listen(4096, error);
  if (error) return failure(ErrorCode::unavailable, "cannot listen on {}: {}", host, error.message());
  port_ = acceptor_.local_endpoint().port();
  accept();
  return {};
}

void Responder::accept() {
  acceptor_.async_accept([this](std::error_code error, Socket socket) {
    // Aborted means closed, and then `this` may be gone.
    if (error == asio::error::operation_aborted) return;
    if (!error) {
      std::error_code ignored;
      socket.set_option(asio::ip::tcp::no_delay(true), ignored);
      auto connection = std::make_shared<Connection>(std::move(socket), connections_);
      connections_->insert(connection);
      connection->read();
    }
    accept();
  });
}

void Responder::close() {
  std::error_code ignored;
  acceptor_.close(ignored);
  for (const auto& connection : std::exchange(*connections_, {})) connection->socket.close(ignored);
}

}  // namespace dirigent::sandbox
