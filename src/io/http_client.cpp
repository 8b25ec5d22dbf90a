// SPDX-License-Identifier: MIT
#include <asio/buffer.hpp>
#include <asio/ip/basic_resolver.hpp>
#include <asio/ip/tcp.hpp>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "asio_types.h"
#include "dirigent/base/log.h"
#include "dirigent/io/address.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/io/http.h"
#include "http_parser.h"
#include "http_writer.h"

namespace dirigent::io {

namespace {

using Resolver = asio::ip::basic_resolver<asio::ip::tcp, Executor>;
using Endpoint = asio::generic::stream_protocol::endpoint;

// The queue of a Unix listener is full: there is no event for its getting shorter.
constexpr Duration kUnixRetry = 5ms;
constexpr int kInformationalMax = 16;

// One exchange; owned by http_call.
class Exchange {
 public:
  Exchange(Loop& loop, const HttpCall& call)
      : loop_(loop),
        call_(call),
        socket_(loop.context().get_executor()),
        resolver_(loop.context().get_executor()),
        deadline_(loop, [this] { expire(); }) {
    deadline_.arm(Loop::now() + call.timeout);
  }

  Task<HttpResponse> perform();

 private:
  void expire();
  // The failure of an operation that ended with `error`: our deadline, our cancellation, or the peer.
  tl::unexpected<Error> failed(std::string_view what, std::error_code error) const;
  Task<void> connect(Address address);
  Task<void> connect_unix(SocketAddress target);
  Task<void> connect_tcp(std::vector<Endpoint> targets);
  Task<std::vector<Endpoint>> resolve(Address address);
  asio::awaitable<std::error_code, Executor> write(std::string_view data);
  Task<HttpResponse> read_response(std::error_code write_error);
  Task<void> read_message(HttpParser& parser, std::error_code write_error);

  Loop& loop_;
  const HttpCall& call_;
  StreamSocket socket_;
  Resolver resolver_;
  WakeupTimer deadline_;
  bool expired_ = false;
  std::array<char, 16384> buffer_;
  std::string_view unread_;
};

void Exchange::expire() {
  expired_ = true;
  std::error_code ignored;
  socket_.cancel(ignored);
  resolver_.cancel();
}

tl::unexpected<Error> Exchange::failed(std::string_view what, std::error_code error) const {
  if (expired_) {
    return failure(ErrorCode::timed_out, "{} {} on {}: no complete answer within {} (give it a longer timeout, or see "
                   "what keeps the server busy)",
                   call_.method, call_.target, call_.server, format_duration(call_.timeout));
  }
  if (error == asio::error::operation_aborted) return failure(ErrorCode::cancelled, "cancelled");
  return failure(ErrorCode::unavailable, "{} {} on {}: {}: {} (is the server running, and is the address right?)",
                 call_.method, call_.target, call_.server, what, error.message());
}

Task<HttpResponse> Exchange::perform() {
  auto address = parse_address(call_.server);
  if (!address) co_return failure(address.error());
  auto head = write_request_head(call_);
  if (!head) co_return failure(head.error());
  auto connecting = connect(std::move(*address));
  const Status connected = co_await std::move(connecting);
  if (!connected) co_return failure(connected.error());
  std::error_code error = co_await write(*head);
  if (!error) error = co_await write(call_.body);
  // A server may answer and close before it has read everything (413): look for its answer all the same.
  auto reading = read_response(error);
  co_return co_await std::move(reading);
}

Task<void> Exchange::connect(Address address) {
  if (!address.is_unix() && address.host.empty()) address.host = "localhost";
  auto numeric = to_socket_address(address);
  if (!numeric && numeric.error().code != ErrorCode::not_found) co_return failure(numeric.error());
  if (address.is_unix()) {
    auto connecting = connect_unix(*numeric);
    co_return co_await std::move(connecting);
  }
  std::vector<Endpoint> targets;
  if (numeric) {
    targets.emplace_back(numeric->get(), numeric->length);
  } else {
    auto resolving = resolve(std::move(address));
    auto resolved = co_await std::move(resolving);
    if (!resolved) co_return failure(resolved.error());
    targets = std::move(*resolved);
  }
  auto connecting = connect_tcp(std::move(targets));
  co_return co_await std::move(connecting);
}

Task<std::vector<Endpoint>> Exchange::resolve(Address address) {
  if (expired_) co_return failed("looked up the name", {});
  std::error_code error;
  const std::string port = std::to_string(address.port);
  const auto found = co_await resolver_.async_resolve(address.host, port, redirect_error(use_task, error));
  if (error || expired_) co_return failed("cannot look up the name", error);
  std::vector<Endpoint> endpoints;
  for (const auto& entry : found) endpoints.emplace_back(entry.endpoint());
  co_return endpoints;
}

// By hand: asio waits for writability after EAGAIN, which for a Unix socket does not mean "connected".
Task<void> Exchange::connect_unix(SocketAddress target) {
  for (;;) {
    FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.is_open()) co_return errno_failure(errno, "cannot open a Unix socket");
    const int code = ::connect(fd.get(), target.get(), target.length);
    const int number = errno;
    if (expired_) co_return failed("cannot connect", {});
    if (code == 0) {
      std::error_code error;
      socket_.assign(asio::generic::stream_protocol(AF_UNIX, 0), fd.get(), error);
      if (error) co_return failed("cannot connect", error);
      (void)fd.release();
      co_return Status{};
    }
    if (number != EAGAIN) co_return failed("cannot connect", std::error_code(number, std::generic_category()));
    const Status slept = co_await sleep_for(loop_, kUnixRetry);
    if (!slept) co_return failure(slept.error());
  }
}

Task<void> Exchange::connect_tcp(std::vector<Endpoint> targets) {
  std::error_code error = asio::error::host_not_found;
  for (const Endpoint& target : targets) {
    std::error_code ignored;
    socket_.close(ignored);
    socket_.open(target.protocol(), error);
    if (error) continue;
    co_await socket_.async_connect(target, redirect_error(use_task, error));
    if (expired_) break;
    if (!error) {
      const int on = 1;
      ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      co_return Status{};
    }
  }
  co_return failed("cannot connect", error);
}

asio::awaitable<std::error_code, Executor> Exchange::write(std::string_view data) {
  std::error_code error;
  while (!data.empty() && !error && !expired_) {
    const std::size_t size =
        co_await socket_.async_write_some(asio::buffer(data.data(), data.size()), redirect_error(use_task, error));
    data.remove_prefix(size);
  }
  co_return error;
}

Task<HttpResponse> Exchange::read_response(std::error_code write_error) {
  HttpParser parser(HttpParser::Kind::response, call_.body_max);
  // Informational answers precede the real one.
  for (int i = 0; i < kInformationalMax; ++i) {
    parser.start_message(call_.method == "HEAD");
    const Status read = co_await read_message(parser, write_error);
    if (!read) co_return failure(read.error());
    if (parser.status() >= 200) {
      HttpResponse response;
      response.status = parser.status();
      response.headers = parser.take_headers();
      response.body = parser.take_body();
      co_return response;
    }
    if (parser.status() == 101) break;
  }
  co_return failure(ErrorCode::corrupt, "{} {} on {}: the server switches protocols or gives no final answer",
                    call_.method, call_.target, call_.server);
}

Task<void> Exchange::read_message(HttpParser& parser, std::error_code write_error) {
  using State = HttpParser::State;
  std::error_code error;
  while (parser.state() == State::head || parser.state() == State::body) {
    if (unread_.empty()) {
      if (expired_) co_return failed("waited for the answer", {});
      const std::size_t size = co_await socket_.async_read_some(asio::buffer(buffer_), redirect_error(use_task, error));
      if (expired_ || error == asio::error::operation_aborted) co_return failed("waited for the answer", error);
      const bool ended = error == asio::error::eof;
      if (ended && parser.state() == State::body) {
        parser.finish();
        if (parser.state() == State::done) co_return Status{};
      }
      if (error) {
        if (write_error) co_return failed("cannot send the request", write_error);
        if (!ended) co_return failed("cannot read the answer", error);
        co_return failure(ErrorCode::unavailable, "{} {} on {}: the server closed the connection {}", call_.method,
                          call_.target, call_.server,
                          parser.started() ? "in the middle of its answer" : "without an answer");
      }
      unread_ = std::string_view(buffer_.data(), size);
    }
    unread_.remove_prefix(parser.feed(unread_));
  }
  if (parser.state() == State::done) co_return Status{};
  const HttpParser::Failure& reason = parser.failure();
  const bool body_too_large = reason.too_large && reason.status == 413;
  co_return failure(body_too_large ? ErrorCode::exhausted : ErrorCode::corrupt, "{} {} on {}: {}: {}", call_.method,
                    call_.target, call_.server,
                    body_too_large ? "the answer is too large" : "the answer is not valid HTTP", reason.reason);
}

}  // namespace

Task<HttpResponse> http_call(Loop& loop, HttpCall call) {
  const auto exchange = std::make_unique<Exchange>(loop, call);
  auto performing = exchange->perform();
  co_return co_await std::move(performing);
}

}  // namespace dirigent::io
