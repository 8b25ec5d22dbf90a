// SPDX-License-Identifier: MIT
//
// An HTTP server in a thread of its own, for verbs that block.
#pragma once

#include <asio/co_spawn.hpp>

#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "dirigent/io/http.h"
#include "dirigent/io/loop.h"

namespace dirigent::test {

// Serves `handler` until destroyed.
class ServerThread {
 public:
  explicit ServerThread(io::HttpHandler handler) {
    std::promise<std::string> ready;
    auto address = ready.get_future();
    thread_ = std::thread([this, &ready, served = std::move(handler)]() mutable {
      io::HttpServerOptions options;
      options.listen = "127.0.0.1:0";
      auto server = io::serve_http(loop_, options, std::move(served));
      if (!server) {
        ready.set_exception(std::make_exception_ptr(std::runtime_error(server.error().message)));
        return;
      }
      server_ = std::move(*server);
      ready.set_value(server_->address());
      loop_.run();
      server_.reset();
    });
    address_ = address.get();
  }
  ServerThread(const ServerThread&) = delete;
  ServerThread& operator=(const ServerThread&) = delete;
  ~ServerThread() {
    loop_.post([this] {
      asio::co_spawn(loop_.context().get_executor(), server_->close(1s), [this](std::exception_ptr) { loop_.stop(); });
    });
    thread_.join();
  }
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  io::Loop loop_;
  std::unique_ptr<io::HttpServer> server_;
  std::string address_;
  std::thread thread_;
};

}  // namespace dirigent::test
