// SPDX-License-Identifier: MIT
//
// A plain HTTP/1.1 server and client for everything that is not the forwarding path: the admin API, registration,
// health, metrics, `ctl`, probes, tests. Whole bodies in memory, bounded; keep-alive; strict parsing (llhttp in strict
// mode, obs-fold refused). The forwarding path of the data plane has its own state machine (roles/data).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/units.h"
#include "dirigent/io/task.h"

namespace dirigent::io {

using Headers = std::vector<std::pair<std::string, std::string>>;  // names as received or to be sent
// The first value of `name`, compared without case; nullopt when absent.
std::optional<std::string_view> find_header(const Headers& headers, std::string_view name);

struct HttpRequest {
  std::string method;
  std::string target;        // as sent: path?query
  Headers headers;
  std::string body;
  std::string peer;          // "127.0.0.1:40312" or "unix"

  [[nodiscard]] std::string_view path() const;   // without the query, still percent-encoded
  [[nodiscard]] std::string_view query() const;
};

struct HttpResponse {
  int status = 200;
  Headers headers;
  std::string body;
};
HttpResponse text_response(int status, std::string body);
HttpResponse json_response(int status, std::string body);

// Decodes %XX (and + as blank in queries and forms). Invalid escapes: nullopt.
std::optional<std::string> percent_decode(std::string_view text, bool plus_is_blank);
std::string percent_encode(std::string_view text);
// application/x-www-form-urlencoded, and queries. Pairs in order; repeated names are kept.
Result<std::vector<std::pair<std::string, std::string>>> parse_form(std::string_view text);

struct HttpServerOptions {
  std::string listen;                  // "127.0.0.1:9091", "[::]:9091", "unix:/path" (made with mode 0660)
  Bytes body_max = 1_MiB;
  Duration header_timeout = 10s;
  Duration idle_timeout = 60s;
  std::uint32_t connections_max = 10'000;
  int backlog = 4096;
};

// One coroutine per request; requests of one connection are answered in order.
using HttpHandler = std::function<asio::awaitable<HttpResponse, asio::io_context::executor_type>(HttpRequest)>;

class HttpServer {
 public:
  virtual ~HttpServer() = default;
  // "127.0.0.1:43211": with the real port.
  [[nodiscard]] virtual std::string address() const = 0;
  // Stops accepting, waits at most `drain` for running requests, then closes every connection. Must be awaited before
  // destruction.
  virtual Action close(Duration drain) = 0;
};
// Errors name the address and what holds it, where that can be told.
Result<std::unique_ptr<HttpServer>> serve_http(Loop& loop, HttpServerOptions options, HttpHandler handler);

struct HttpCall {
  std::string server;        // "127.0.0.1:9091" or "unix:/path"
  std::string method = "GET";
  std::string target = "/";
  Headers headers;           // Host is added when absent
  std::string body;
  Duration timeout = 30s;    // for the whole exchange
  Bytes body_max = 64_MiB;   // of the response
};
// One request on a connection of its own. An answer of any status is a success; the errors are: unavailable (cannot
// connect, with the address and the system's words), timed_out, corrupt (not HTTP), exhausted (body too large).
Task<HttpResponse> http_call(Loop& loop, HttpCall call);

}  // namespace dirigent::io
