// SPDX-License-Identifier: MIT
#include <asio/generic/stream_protocol.hpp>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <list>
#include <system_error>
#include <utility>

#include "asio_types.h"
#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"
#include "dirigent/io/http.h"
#include "http_connection.h"
#include "http_parser.h"
#include "http_writer.h"
#include "listener.h"

namespace dirigent::io {

namespace {

// One wake-up of the loop takes this many connections at most, so that a storm of them does not starve running
// requests.
constexpr int kAcceptBatch = 256;
// How long to leave the listener alone when the process or the machine has no descriptor (or memory) left: a connection
// has to end first, and asking again at once would spin.
constexpr Duration kAcceptBackOff = 50ms;

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(Loop& loop, HttpServerOptions options, HttpHandler handler, Listener listener)
      : loop_(loop),
        options_(std::move(options)),
        handler_(std::move(handler)),
        listener_(std::move(listener)),
        descriptor_(loop.context().get_executor(), listener_.release_descriptor()),
        group_(loop, "http") {
    group_.spawn(accept_connections());
  }

  [[nodiscard]] std::string address() const override { return listener_.address(); }
  Action close(Duration drain) override;

 private:
  // Registers a connection for as long as its coroutine lives.
  struct Session {
    Session(HttpServerImpl& s, HttpConnection& c)
        : server(s), connection(c), place(s.sessions_.insert(s.sessions_.end(), this)) {}
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session() {
      server.sessions_.erase(place);
      server.connections_ -= 1;
    }
    HttpServerImpl& server;
    HttpConnection& connection;
    bool idle = false;  // between two requests: nobody loses anything if it ends now
    std::list<Session*>::iterator place;
  };

  Action accept_connections();
  // False: leave the listener alone for a while.
  bool accept_batch();
  void adopt(int fd, const SocketAddress& peer);
  Action serve(std::shared_ptr<HttpConnection> connection);
  asio::awaitable<bool, Executor> receive(Session& session, HttpParser& parser, bool first);
  asio::awaitable<bool, Executor> receive_head(Session& session, HttpParser& parser, bool first);
  asio::awaitable<bool, Executor> receive_body(HttpConnection& connection, HttpParser& parser);
  asio::awaitable<HttpResponse, Executor> answer(HttpRequest request);
  Action refuse(HttpConnection& connection, int status, std::string reason);

  Loop& loop_;
  HttpServerOptions options_;
  HttpHandler handler_;
  Listener listener_;
  StreamDescriptor descriptor_;
  TaskGroup group_;
  std::list<Session*> sessions_;
  std::uint32_t connections_ = 0;
  bool closing_ = false;
  bool shortage_logged_ = false;
};

Action HttpServerImpl::accept_connections() {
  while (!closing_) {
    std::error_code error;
    co_await descriptor_.async_wait(StreamDescriptor::wait_read, asio::redirect_error(use_task, error));
    if (closing_) break;
    if (error) {
      log_error("http", "{} accepts no connections any more: {}", address(), error.message());
      break;
    }
    if (!accept_batch()) {
      const Status slept = co_await sleep_for(loop_, kAcceptBackOff);
      if (!slept) break;
    }
  }
}

bool HttpServerImpl::accept_batch() {
  for (int i = 0; i < kAcceptBatch; ++i) {
    // Over the limit, clients wait in the kernel's queue.
    if (connections_ >= options_.connections_max) return false;
    SocketAddress peer;
    peer.length = sizeof peer.storage;
    const int fd = ::accept4(descriptor_.native_handle(), peer.get(), &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      shortage_logged_ = false;
      adopt(fd, peer);
      continue;
    }
    switch (errno) {
      case EAGAIN: return true;
      case EMFILE: case ENFILE: case ENOBUFS: case ENOMEM:
        if (!std::exchange(shortage_logged_, true)) {
          log_warn("http", "{} cannot accept connections: {} (raise the limit of open files)", address(),
                   std::generic_category().message(errno));
        }
        return false;
      default: break;  // the error of one connection that is gone already
    }
  }
  return true;
}

void HttpServerImpl::adopt(int fd, const SocketAddress& peer) {
  FileDescriptor owner(fd);
  if (peer.storage.ss_family != AF_UNIX) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  StreamSocket socket(loop_.context().get_executor());
  std::error_code error;
  socket.assign(asio::generic::stream_protocol(peer.storage.ss_family, 0), fd, error);
  if (error) {
    log_error("http", "cannot watch a connection of {}: {}", address(), error.message());
    return;
  }
  (void)owner.release();
  std::string name = format_socket_address(peer.get(), peer.length);
  auto connection = std::make_shared<HttpConnection>(loop_, std::move(socket), std::move(name));
  connections_ += 1;
  group_.spawn(serve(std::move(connection)));
}

Action HttpServerImpl::serve(std::shared_ptr<HttpConnection> connection) {
  Session session(*this, *connection);
  HttpParser parser(HttpParser::Kind::request, options_.body_max);
  for (bool first = true; !closing_; first = false) {
    parser.start_message();
    const bool received = co_await receive(session, parser, first);
    if (!received) co_return;
    const bool is_head = parser.method() == "HEAD";
    const bool http_1_0 = parser.is_http_1_0();
    HttpRequest request;
    request.method = parser.method();
    request.target = parser.take_target();
    request.headers = parser.take_headers();
    request.body = parser.take_body();
    request.peer = connection->peer();
    connection->set_limit(std::nullopt);

    auto answering = answer(std::move(request));
    HttpResponse response = co_await std::move(answering);
    const auto wish = find_header(response.headers, "connection");
    const bool keep = parser.keep_alive() && !closing_ && !(wish && to_lower(*wish) == "close");
    const std::string head = write_response_head(response, http_1_0, keep, response.body.size());
    bool sent = co_await connection->send(head, options_.idle_timeout);
    if (sent && !is_head && has_body(response.status)) {
      sent = co_await connection->send(response.body, options_.idle_timeout);
    }
    if (!sent) co_return;
    if (!keep) {
      // A client that asked for the close sends nothing more; one that did not may be in the middle of its next
      // request.
      if (parser.keep_alive()) co_await connection->linger();
      co_return;
    }
  }
}

// Reads one whole request. False: there is none, and whatever had to be said was said.
asio::awaitable<bool, Executor> HttpServerImpl::receive(Session& session, HttpParser& parser, bool first) {
  HttpConnection& connection = session.connection;
  const bool has_head = co_await receive_head(session, parser, first);
  if (!has_head) co_return false;
  if (parser.state() == HttpParser::State::body) {
    const bool has_body = co_await receive_body(connection, parser);
    if (!has_body) co_return false;
  }
  if (parser.state() == HttpParser::State::failed) {
    co_await refuse(connection, parser.failure().status, parser.failure().reason);
    co_return false;
  }
  co_return true;
}

asio::awaitable<bool, Executor> HttpServerImpl::receive_head(Session& session, HttpParser& parser, bool first) {
  HttpConnection& connection = session.connection;
  // The first request is due at once; a later one may let us wait, but its head has to come in one go.
  const bool patient = !first && connection.unread().empty();
  connection.set_limit(patient ? options_.idle_timeout : options_.header_timeout);
  while (parser.state() == HttpParser::State::head) {
    if (connection.unread().empty()) {
      const bool begun = parser.started();
      session.idle = !begun;
      const bool more = co_await connection.fill();
      session.idle = false;
      if (!more && begun && connection.expired()) {
        co_await refuse(connection, 408, fmt::format("no complete request head within {}",
                                                     format_duration(options_.header_timeout)));
      }
      if (!more) co_return false;
      if (!begun && patient) connection.set_limit(options_.header_timeout);
    }
    connection.consume(parser.feed(connection.unread()));
  }
  co_return true;
}

asio::awaitable<bool, Executor> HttpServerImpl::receive_body(HttpConnection& connection, HttpParser& parser) {
  const auto expect = find_header(parser.headers(), "expect");
  if (expect && !parser.is_http_1_0()) {
    if (to_lower(*expect) != "100-continue") {
      co_await refuse(connection, 417, "an expectation other than 100-continue");
      co_return false;
    }
    const bool sent = co_await connection.send(kContinue, options_.idle_timeout);
    if (!sent) co_return false;
  }
  connection.set_limit(options_.idle_timeout);
  while (parser.state() == HttpParser::State::body) {
    if (connection.unread().empty()) {
      const bool more = co_await connection.fill();
      if (!more && connection.expired()) {
        co_await refuse(connection, 408, fmt::format("no complete request body within {}",
                                                     format_duration(options_.idle_timeout)));
      }
      if (!more) co_return false;
    }
    connection.consume(parser.feed(connection.unread()));
  }
  co_return true;
}

asio::awaitable<HttpResponse, Executor> HttpServerImpl::answer(HttpRequest request) {
  const std::string what = request.method + " " + std::string(request.path());
  std::string reason;
  try {
    auto handling = handler_(std::move(request));
    HttpResponse response = co_await std::move(handling);
    if (response.status >= 200 && response.status <= 999) co_return response;
    reason = fmt::format("the handler answered with status {}", response.status);
  } catch (const std::system_error& error) {
    // Our own cancellation travels on.
    if (error.code() == asio::error::operation_aborted) throw;
    reason = error.what();
  } catch (const std::exception& error) {
    reason = error.what();
  }
  log_error("http", "{} failed: {}", what, reason);
  co_return text_response(500, "internal error, see the log\n");
}

Action HttpServerImpl::refuse(HttpConnection& connection, int status, std::string reason) {
  HttpResponse response = text_response(status, std::move(reason));
  response.body += '\n';
  std::string message = write_response_head(response, false, false, response.body.size());
  message += response.body;
  const bool sent = co_await connection.send(message, options_.idle_timeout);
  if (sent) co_await connection.linger();
}

Action HttpServerImpl::close(Duration drain) {
  ASSERT(!closing_, "the server on {} is closed twice", address());
  closing_ = true;
  std::error_code ignored;
  descriptor_.close(ignored);
  for (Session* session : sessions_) {
    if (session->idle) session->connection.interrupt();
  }
  WakeupTimer limit(loop_, [this] {
    for (Session* session : sessions_) session->connection.interrupt();
    group_.cancel();
  });
  limit.arm(Loop::now() + drain);
  // A coroutine that is still waiting in its back-off, or for a handler, ends by itself or at the limit.
  co_await group_.wait();
}

}  // namespace

Result<std::unique_ptr<HttpServer>> serve_http(Loop& loop, HttpServerOptions options, HttpHandler handler) {
  auto address = parse_address(options.listen);
  if (!address) return failure(address.error().within("cannot listen"));
  auto listener = Listener::open(*address, options.backlog);
  if (!listener) return failure(listener.error());
  return std::make_unique<HttpServerImpl>(loop, std::move(options), std::move(handler), std::move(*listener));
}

}  // namespace dirigent::io
