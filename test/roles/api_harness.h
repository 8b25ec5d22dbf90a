// SPDX-License-Identifier: MIT
//
// A handler behind a real HTTP server on a free port, asked by the real client, on one loop in the test's thread.
#pragma once

#include <asio/co_spawn.hpp>

#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "catch.h"
#include "dirigent/io/http.h"

namespace dirigent::fakes {

class ServedHandler {
 public:
  explicit ServedHandler(io::HttpHandler handler) {
    io::HttpServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = io::serve_http(loop_, options, std::move(handler));
    REQUIRE(server);
    server_ = std::move(*server);
  }
  ServedHandler(const ServedHandler&) = delete;
  ServedHandler& operator=(const ServedHandler&) = delete;
  ~ServedHandler() {
    asio::co_spawn(loop_.context().get_executor(), server_->close(1s), [this](std::exception_ptr) { loop_.stop(); });
    loop_.run();
  }

  [[nodiscard]] std::string address() const { return server_->address(); }

  io::HttpResponse ask(std::string method, std::string target, std::string body = {}, io::Headers headers = {}) {
    io::HttpCall call;
    call.server = server_->address();
    call.method = std::move(method);
    call.target = std::move(target);
    call.body = std::move(body);
    call.headers = std::move(headers);
    call.timeout = 20s;
    std::optional<Result<io::HttpResponse>> answer;
    asio::co_spawn(loop_.context().get_executor(), io::http_call(loop_, std::move(call)),
                   [&](std::exception_ptr bug, Result<io::HttpResponse> result) {
                     REQUIRE_FALSE(bug);
                     answer = std::move(result);
                     loop_.stop();
                   });
    loop_.run();
    REQUIRE(answer);
    INFO((*answer ? std::string() : answer->error().message));
    REQUIRE(answer->has_value());
    return std::move(**answer);
  }

 private:
  io::Loop loop_;
  std::unique_ptr<io::HttpServer> server_;
};

inline std::string header(const io::HttpResponse& response, std::string_view name) {
  return std::string(io::find_header(response.headers, name).value_or(""));
}

}  // namespace dirigent::fakes
