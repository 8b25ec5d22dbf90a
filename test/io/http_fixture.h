// SPDX-License-Identifier: MIT
//
// Helpers of the HTTP tests: a server on a loop thread of its own, a raw blocking client that sends exactly the bytes
// it is told, and a peer that answers exactly the bytes it is told.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "catch.h"
#include "dirigent/io/address.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/io/http.h"
#include "dirigent/io/task.h"

namespace dirigent::io::test {

// The matcher of strings has another name in each version of Catch2.
inline auto contains_text(const std::string& text) {
#if CATCH_V3
  return Catch::Matchers::ContainsSubstring(text);
#else
  return Catch::Contains(text);
#endif
}

// Runs `task` on a loop in the calling thread until it has ended.
template <class T>
Result<T> run_task(Loop& loop, Task<T> task) {
  std::optional<Result<T>> result;
  auto wrap = [](Loop& l, Task<T> inner, std::optional<Result<T>>& out) -> Action {
    out.emplace(co_await std::move(inner));
    l.stop();
  };
  TaskGroup group(loop, "test");
  group.spawn(wrap(loop, std::move(task), result));
  loop.run();
  group.drain_now();
  REQUIRE(result.has_value());
  return std::move(*result);
}

inline Result<HttpResponse> call(HttpCall what) {
  Loop loop;
  return run_task(loop, http_call(loop, std::move(what)));
}

// A directory that is removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class TestServer {
 public:
  explicit TestServer(HttpHandler handler, HttpServerOptions options = {});
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;
  ~TestServer() { close(10s); }

  // Returns when the server is closed.
  void close(Duration drain);
  [[nodiscard]] const std::string& address() const { return address_; }
  Loop& loop() { return loop_; }

 private:
  Loop loop_;
  std::unique_ptr<HttpServer> server_;
  std::string address_;
  std::thread thread_;
};

// Answers "METHOD target body" with status 200.
HttpHandler echo_handler();

class RawClient {
 public:
  explicit RawClient(const std::string& server);
  // False when the peer has closed.
  bool send(std::string_view bytes);
  // Until the peer closes. Fails the test after ten seconds.
  std::string read_all();
  // Until `end` has been seen, at most; what follows stays unread.
  std::string read_until(std::string_view end);
  std::string read_exactly(std::size_t size);
  void finish_sending() { ::shutdown(socket_.get(), SHUT_WR); }
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  FileDescriptor socket_;
};

// Sends `request` and returns everything that comes until the server closes.
std::string talk(const std::string& server, std::string_view request);

// Accepts one connection, reads until `request_end` (or never when empty), writes `answer` and closes.
class CannedPeer {
 public:
  explicit CannedPeer(std::string answer, std::string request_end = "\r\n\r\n");
  CannedPeer(const CannedPeer&) = delete;
  CannedPeer& operator=(const CannedPeer&) = delete;
  ~CannedPeer();
  [[nodiscard]] const std::string& address() const { return address_; }
  // What it received. Joins.
  std::string received();

 private:
  FileDescriptor listener_;
  std::string address_;
  std::string received_;
  std::thread thread_;
};

}  // namespace dirigent::io::test
