// SPDX-License-Identifier: MIT
#include "sandbox/process/prober.h"

#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/write.hpp>

#include "dirigent/base/text.h"
#include "sandbox/helpers.h"

namespace dirigent::sandbox {

namespace {

using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<asio::ip::tcp, Executor>;
using Timer =
    asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;

constexpr Duration kFirstPatience = 3ms;

// Closes the socket at the deadline, which ends whatever waits on it.
class Deadline {
 public:
  Deadline(Socket& socket, Instant when) : timer_(socket.get_executor()), passed_(std::make_shared<bool>(false)) {
    timer_.expires_at(on_steady_clock(when));
    timer_.async_wait([&socket, passed = passed_, alive = std::weak_ptr<bool>(passed_)](std::error_code error) {
      if (error || alive.use_count() < 2) return;
      *passed = true;
      std::error_code ignored;
      socket.close(ignored);
    });
  }

 private:
  Timer timer_;
  std::shared_ptr<bool> passed_;
};

io::Task<bool> get_is_fine(Socket& socket, std::string address, std::string path) {
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + address +
                              "\r\nUser-Agent: dirigent-probe/1\r\nK-Network-Probe: queue\r\nConnection: close\r\n\r\n";
  std::error_code error;
  co_await asio::async_write(socket, asio::buffer(request), asio::redirect_error(use_task, error));
  if (error) co_return false;
  std::string answer;
  auto buffer = asio::dynamic_buffer(answer, 8192);
  co_await asio::async_read_until(socket, buffer, "\r\n", asio::redirect_error(use_task, error));
  if (error) co_return false;
  const bool is_http = answer.starts_with("HTTP/1.1 ") || answer.starts_with("HTTP/1.0 ");
  co_return is_http && answer.size() > 12 && (answer[9] == '2' || answer[9] == '3');
}

}  // namespace

io::Task<bool> probe_address(io::Loop& loop, std::string address, std::string ready_path, Duration timeout) {
  const std::size_t colon = address.rfind(':');
  std::error_code error;
  const auto ip = asio::ip::make_address(address.substr(0, colon), error);
  const auto port = colon == std::string::npos ? std::nullopt : parse_integer(address.substr(colon + 1));
  if (error || !port || *port < 1 || *port > 65535)
    co_return failure(ErrorCode::invalid_argument, "cannot probe \"{}\": not an address and port", address);
  const asio::ip::tcp::endpoint endpoint(ip, static_cast<std::uint16_t>(*port));
  const Instant end = io::Loop::now() + timeout;
  Duration patience = kFirstPatience;
  for (;;) {
    Socket socket(loop.context().get_executor());
    socket.open(endpoint.protocol(), error);
    if (error) co_return failure(ErrorCode::exhausted, "cannot make a socket: {}", error.message());
    {
      const Deadline deadline(socket, std::min(end, io::Loop::now() + patience));
      co_await socket.async_connect(endpoint, asio::redirect_error(use_task, error));
    }
    const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) co_return failure(ErrorCode::cancelled, "cancelled");
    if (!error) {
      if (ready_path.empty()) co_return true;
      const Deadline deadline(socket, end);
      co_return co_await get_is_fine(socket, address, ready_path);
    }
    if (error != asio::error::operation_aborted || io::Loop::now() >= end) co_return false;
    patience *= 2;
  }
}

}  // namespace dirigent::sandbox
