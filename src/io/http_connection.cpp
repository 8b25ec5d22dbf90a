// SPDX-License-Identifier: MIT
#include "http_connection.h"

#include <asio/buffer.hpp>

#include <utility>

#include "dirigent/base/assert.h"

namespace dirigent::io {

namespace {

constexpr Duration kLingerTime = 500ms;
constexpr std::size_t kLingerBytesMax = 1 << 20;

}  // namespace

HttpConnection::HttpConnection(Loop& loop, StreamSocket socket, std::string peer)
    : socket_(std::move(socket)), peer_(std::move(peer)), deadline_(loop, [this] {
        expired_ = true;
        interrupt();
      }) {}

void HttpConnection::set_limit(std::optional<Duration> limit) {
  expired_ = false;
  deadline_.arm(limit ? std::optional(Loop::now() + *limit) : std::nullopt);
}

void HttpConnection::interrupt() {
  std::error_code ignored;
  socket_.cancel(ignored);
}

asio::awaitable<bool, Executor> HttpConnection::fill() {
  ASSERT(begin_ == end_, "{} bytes unread", end_ - begin_);
  begin_ = end_ = 0;
  if (expired_) co_return false;
  std::error_code error;
  const std::size_t size = co_await socket_.async_read_some(asio::buffer(buffer_), redirect_error(use_task, error));
  if (!error) end_ = size;
  co_return !error && size > 0;
}

asio::awaitable<bool, Executor> HttpConnection::send(std::string_view data, Duration limit) {
  while (!data.empty()) {
    set_limit(limit);
    std::error_code error;
    const std::size_t size =
        co_await socket_.async_write_some(asio::buffer(data.data(), data.size()), redirect_error(use_task, error));
    if (error) co_return false;
    data.remove_prefix(size);
  }
  set_limit(std::nullopt);
  co_return true;
}

Action HttpConnection::linger() {
  std::error_code ignored;
  socket_.shutdown(StreamSocket::shutdown_send, ignored);
  set_limit(kLingerTime);
  begin_ = end_;
  for (std::size_t total = 0; total < kLingerBytesMax;) {
    const bool more = co_await fill();
    if (!more) co_return;
    total += unread().size();
    consume(unread().size());
  }
}

}  // namespace dirigent::io
