// SPDX-License-Identifier: MIT
//
// A data plane on a loop of its own thread, fed with routes by hand; sandboxes made of plain sockets and one thread per
// connection; and a blocking client. Every wait has a deadline, so a test that goes wrong fails instead of hanging.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dirigent/io/loop.h"
#include "roles/data/data_plane.h"

namespace dirigent::test {

// A blocking TCP connection; reads give up after 10 s.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  static Wire connect(const std::string& address);
  Wire(Wire&& other) noexcept : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}
  Wire& operator=(Wire&&) = delete;
  ~Wire() { close(); }

  bool write(std::string_view text);     // false: the peer is gone
  void shutdown_write();
  void close();
  void reset();                          // closes with a RST
  int fd() const { return fd_; }
  void shrink_buffers(int bytes);        // of the kernel, both ways

  std::string read_until(std::string_view mark);   // up to and including it; "" at the end
  std::string read_exactly(std::size_t size);      // less at the end
  std::string read_to_end();
  std::string read_some(std::size_t at_most);      // what is there, at least a byte; "" at the end
  bool was_reset() const { return was_reset_; }    // the end that was read was none
  bool at_end();                         // waits for the end; false when a byte comes instead

 private:
  bool fill();
  int fd_;
  std::string buffer_;
  bool was_reset_ = false;
};

struct Response {
  int status = 0;
  std::string head;                      // with the status line
  std::string body;                      // without its framing
  std::string trailers;
  bool complete = false;                 // ended as its framing says
  std::string header(std::string_view name) const;  // the first one, "" when absent
  int count(std::string_view name) const;
};
Response read_response(Wire& wire, bool answers_head = false);
Response fetch(const std::string& address, std::string_view request);  // on a connection of its own
std::string get(std::string_view path, std::string_view host = "example.test");

// The request as the sandbox got it.
struct Received {
  std::string head;
  std::string body;
  std::string raw_body;
  std::string header(std::string_view name) const;
  int count(std::string_view name) const;
};

// A sandbox: accepts, and runs `serve` on a thread per connection until it returns.
class FakeSandbox {
 public:
  using Serve = std::function<void(Wire&, FakeSandbox&)>;
  explicit FakeSandbox(Serve serve);
  ~FakeSandbox();
  // Reads whole requests and answers each with what `answer` returns, until the connection ends.
  static Serve answering(std::function<std::string(const Received&)> answer);
  static Serve answering(std::string answer);
  // The same for what writes its answer itself; the connection ends when it returns false.
  static Serve serving_until_closed(std::function<bool(const Received&, Wire&)> serve);

  const std::string& address() const { return address_; }
  int connections() const { return connections_; }
  int requests() const { return requests_; }
  Received last() const;
  std::atomic<int> active{0};
  std::atomic<int> active_max{0};
  void note(Received received);
  void stop_listening();
  // Closes every open connection from this side.
  void drop_connections();

 private:
  void accept_loop();
  Serve serve_;
  std::string address_;
  int listener_;
  mutable std::mutex mutex_;
  Received last_;
  std::list<std::thread> threads_;
  std::list<int> fds_;
  std::atomic<int> connections_{0};
  std::atomic<int> requests_{0};
  std::atomic<bool> stopping_{false};
  std::thread acceptor_;
};
std::optional<Received> read_request(Wire& wire);
std::string ok(std::string_view body, std::string_view headers = "");

// A flag that one thread raises and another waits for.
class Event {
 public:
  void set();
  bool wait(std::chrono::seconds limit = std::chrono::seconds(10));

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_set_ = false;
};

// A text that the test changes and the threads of sandboxes read.
class SharedText {
 public:
  void operator=(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  std::string get() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

class Plane {
 public:
  explicit Plane(std::function<void(roles::ProxyOptions&)> adjust = {}, roles::AsyncDesk::OpenStore open_store = {});
  // Stops the plane and checks that no slot is taken: every sandbox ever routed is reported as drained.
  ~Plane();

  const std::string& address() const { return address_; }
  // Routes NAME to these addresses, one sandbox each, and waits until every shard knows.
  void route(const std::string& name, std::vector<std::string> addresses,
             std::function<void(FunctionRoute&)> adjust = {});
  void unroute(const std::string& name);
  void stop(Duration drain);
  std::future<void> start_stop(Duration drain);

  std::vector<roles::MetricsSnapshot> snapshot();
  std::uint64_t in_flight();
  std::uint64_t waiting();
  // Looks again and again (each look waits for a turn of every shard) until it is so; false after 10 s.
  bool eventually(std::function<bool()> condition);
  std::vector<SandboxSuspected> suspected();
  std::vector<FunctionLoad> loads();
  template <class Work>
  auto on_loop(Work work) {
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto result = task.get_future();
    loop_.post(std::move(task));
    return result.get();
  }
  roles::DataPlane& plane() { return *plane_; }
  io::Loop& loop() { return loop_; }

 private:
  void send(FunctionRoute route);
  io::Loop loop_;
  std::thread thread_;
  std::unique_ptr<roles::DataPlane> plane_;
  std::string address_;
  std::map<std::string, FunctionRoute> routes_;
  std::uint64_t version_ = 0;
  std::uint64_t next_sandbox_ = 1;
  bool stopped_ = false;
  std::mutex mutex_;
  std::vector<SandboxSuspected> suspected_;
  std::vector<FunctionLoad> loads_;
  std::vector<SandboxId> drained_;
};

}  // namespace dirigent::test
