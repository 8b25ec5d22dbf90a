// SPDX-License-Identifier: MIT
//
// One accepted connection of the HTTP server: its socket, its unread bytes and one deadline. On the server's loop.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "asio_types.h"
#include "dirigent/io/task.h"

namespace dirigent::io {

class HttpConnection {
 public:
  HttpConnection(Loop& loop, StreamSocket socket, std::string peer);

  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] std::string_view unread() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(std::size_t size) { begin_ += size; }

  // From now on reads and writes fail `limit` from now; nullopt: no limit.
  void set_limit(std::optional<Duration> limit);
  [[nodiscard]] bool expired() const { return expired_; }

  // Waits for more bytes. False: the peer has closed, the limit has passed, or interrupt() was called.
  // REQUIRES: unread() is empty.
  asio::awaitable<bool, Executor> fill();
  // Writes all of `data`, which must live until then. Each step may last `limit`, so that a slow reader is no error and
  // one that has stopped is. False: it could not be written.
  asio::awaitable<bool, Executor> send(std::string_view data, Duration limit);
  // Ends fill() now.
  void interrupt();
  // Says that nothing follows, then reads what the peer still sends, for a short time: a close with unread bytes would
  // reset the connection and take the answer away from the peer.
  Action linger();

 private:
  StreamSocket socket_;
  std::string peer_;
  bool expired_ = false;
  WakeupTimer deadline_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::array<char, 8192> buffer_;
};

}  // namespace dirigent::io
