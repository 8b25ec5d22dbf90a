// SPDX-License-Identifier: MIT
//
// Runs over HTTP/2 against a small server made of nghttp2: one thread, one connection at a time.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "bench/scripted_server.h"
#include "catch.h"
#include "dirigent/bench/engine.h"
#include "dirigent/io/file_descriptor.h"

using namespace dirigent;
using namespace dirigent::bench;

namespace {

class H2Server {
 public:
  enum class Answer { good, reset, silence, goodbye };
  using Script = std::function<Answer(std::size_t number)>;

  explicit H2Server(Script script, std::uint32_t streams_max = 100)
      : script_(std::move(script)), streams_max_(streams_max) {
    listener_ = io::FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(listener_.get(), 100) == 0);
    REQUIRE(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] {
      for (int fd = 0; (fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)) >= 0;)
        serve(io::FileDescriptor(fd));
    });
  }
  H2Server(const H2Server&) = delete;
  H2Server& operator=(const H2Server&) = delete;
  ~H2Server() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  [[nodiscard]] const std::string& address() const { return address_; }

  using Fields = std::multimap<std::string, std::string>;
  std::vector<Fields> requests;  // read after the run only
  std::vector<std::string> bodies;
  std::size_t connections = 0;  // that said something
  std::size_t streams_seen_max = 0;

 private:
  struct Stream {
    Fields fields;
    std::string body;
  };

  static H2Server& of(void* user) { return *static_cast<H2Server*>(user); }

  void serve(io::FileDescriptor socket) {
    fd_ = socket.get();
    open_.clear();
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                      const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
          H2Server& self = of(user);
          self.open_[frame->hd.stream_id].fields.emplace(std::string(reinterpret_cast<const char*>(name), name_size),
                                                         std::string(reinterpret_cast<const char*>(value), value_size));
          self.streams_seen_max = std::max(self.streams_seen_max, self.open_.size());
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks,
        [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size, void* user) {
          of(user).open_[id].body.append(reinterpret_cast<const char*>(data), size);
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session* session, const nghttp2_frame* frame, void* user) {
          const bool is_request = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
          if (is_request && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
            of(user).answer(session, frame->hd.stream_id);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        callbacks, [](nghttp2_session*, std::int32_t id, std::uint32_t, void* user) {
          of(user).open_.erase(id);
          return 0;
        });
    nghttp2_session* session = nullptr;
    nghttp2_session_server_new(&session, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams_max_}};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, 1);
    bool is_first = true;
    char buffer[64 * 1024];
    for (ssize_t size = 0; (size = ::recv(fd_, buffer, sizeof buffer, 0)) > 0;) {
      if (is_first) ++connections;
      is_first = false;
      if (nghttp2_session_mem_recv(session, reinterpret_cast<std::uint8_t*>(buffer), static_cast<std::size_t>(size)) <
          0)
        break;
      if (!send_all(session)) break;
      if (nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0) break;
    }
    nghttp2_session_del(session);
  }

  bool send_all(nghttp2_session* session) const {
    const std::uint8_t* data = nullptr;
    for (ssize_t size = 0; (size = nghttp2_session_mem_send(session, &data)) > 0;) {
      for (ssize_t sent = 0; sent < size;) {
        const ssize_t step = ::send(fd_, data + sent, static_cast<std::size_t>(size - sent), MSG_NOSIGNAL);
        if (step <= 0) return false;
        sent += step;
      }
    }
    return true;
  }

  void answer(nghttp2_session* session, std::int32_t id) {
    requests.push_back(open_[id].fields);
    bodies.push_back(open_[id].body);
    switch (script_(requests.size() - 1)) {
      case Answer::silence: return;
      case Answer::reset: nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_INTERNAL_ERROR); return;
      case Answer::goodbye: nghttp2_session_terminate_session(session, NGHTTP2_INTERNAL_ERROR); return;
      case Answer::good: break;
    }
    const auto field = [](const char* name, const char* value) {
      return nghttp2_nv{reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
                        reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), std::strlen(name),
                        std::strlen(value), NGHTTP2_NV_FLAG_NONE};
    };
    const nghttp2_nv fields[] = {field(":status", "200"), field("server-timing", "cold;desc=\"no\", fn;dur=0.5")};
    nghttp2_data_provider body{};
    body.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t, std::uint32_t* flags,
                            nghttp2_data_source*, void*) -> ssize_t {
      std::memcpy(out, "hello", 5);
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      return 5;
    };
    nghttp2_submit_response(session, id, fields, 2, &body);
  }

  Script script_;
  std::uint32_t streams_max_;
  io::FileDescriptor listener_;
  std::string address_;
  int fd_ = -1;
  std::map<std::int32_t, Stream> open_;
  std::thread thread_;
};

Plan h2_plan(const std::string& address, std::uint64_t requests, unsigned streams) {
  Plan plan;
  plan.pace = Pace::closed;
  plan.protocol = Protocol::h2c;
  plan.endpoints = {address};
  plan.targets = {{"f0", 0, "f0", "/", "img", 64}, {"f1", 0, "f1", "/p?q=1", "img", 64}};
  plan.connections = 1;
  plan.streams = streams;
  plan.requests = requests;
  plan.timeout = 30s;
  return plan;
}

RunResult run(const Plan& plan) {
  auto result = run_plan(plan, {});
  if (!result) FAIL(result.error().message);
  return std::move(*result);
}

std::string first(const H2Server::Fields& fields, const std::string& name) {
  const auto found = fields.find(name);
  return found == fields.end() ? "" : found->second;
}

using Errors = std::map<std::string, std::uint64_t, std::less<>>;

}  // namespace

TEST_CASE("bench h2c: all functions share one connection, many calls at a time") {
  H2Server server([](std::size_t) { return H2Server::Answer::good; });
  Plan plan = h2_plan(server.address(), 2000, 50);
  plan.request.method = "POST";
  plan.request.invitro = true;
  plan.run_time = 12ms;
  const RunResult result = run(plan);
  CHECK(result.measurement->succeeded == 2000);
  CHECK(result.measurement->errors == Errors{});
  CHECK(result.measurement->body_bytes == 10'000);
  CHECK(result.measurement->timed == 2000);
  CHECK(result.connections_opened == 1);
  CHECK(server.connections == 1);
  REQUIRE(server.requests.size() == 2000);
  CHECK(server.streams_seen_max > 1);
  CHECK(server.streams_seen_max <= 50);
  const auto& fields = server.requests[1];
  CHECK(first(fields, ":authority") == "f1");
  CHECK(first(fields, ":path") == "/p?q=1");
  CHECK(first(fields, ":method") == "POST");
  CHECK(first(fields, "function") == "f1");
  CHECK(first(fields, "workload") == "img");
  CHECK(first(fields, "requested_cpu") == "12");
  CHECK(first(fields, "requested_memory") == "64");
  CHECK(first(fields, "content-length") == "0");
}

TEST_CASE("bench h2c: the server's limit of streams is kept, and calls beyond it wait") {
  H2Server server([](std::size_t) { return H2Server::Answer::good; }, 3);
  Plan plan = h2_plan(server.address(), 0, 1);
  plan.pace = Pace::open;
  plan.load = *workload::Load::parse("burst:size=200,every_ms=10000");
  plan.length = 1s;
  const RunResult result = run(plan);
  CHECK(result.measurement->succeeded == 200);
  CHECK(result.in_flight_max == 200);
  CHECK(server.streams_seen_max <= 3);
  CHECK(server.connections == 1);
}

TEST_CASE("bench h2c: a request body larger than the window arrives whole") {
  H2Server server([](std::size_t) { return H2Server::Answer::good; });
  Plan plan = h2_plan(server.address(), 3, 2);
  plan.request.method = "POST";
  plan.request.body = std::string(300'000, 'b');
  CHECK(run(plan).measurement->succeeded == 3);
  REQUIRE(server.bodies.size() == 3);
  for (const auto& body : server.bodies) CHECK(body == plan.request.body);
}

TEST_CASE(
    "bench h2c: a stream that is reset is one failure, a connection that ends fails its streams and is made anew") {
  H2Server server([](std::size_t number) {
    return number == 5 ? H2Server::Answer::reset : number == 20 ? H2Server::Answer::goodbye : H2Server::Answer::good;
  });
  const RunResult result = run(h2_plan(server.address(), 100, 1));
  CHECK(result.measurement->measured == 100);
  CHECK(result.measurement->succeeded == 98);
  CHECK(result.measurement->errors == Errors{{"connection-ended", 1}, {"stream-reset", 1}});
  CHECK(result.connections_opened == 2);
}

TEST_CASE("bench h2c: a call without an answer ends at its timeout and gives its stream back") {
  H2Server server([](std::size_t number) { return number == 0 ? H2Server::Answer::silence : H2Server::Answer::good; });
  Plan plan = h2_plan(server.address(), 10, 1);
  plan.timeout = 200ms;
  const RunResult result = run(plan);
  CHECK(result.measurement->errors == Errors{{"timed-out", 1}});
  CHECK(result.measurement->succeeded == 9);
  CHECK(result.connections_opened == 1);
}

TEST_CASE("bench h2c: a server that speaks something else makes failures, not a hang") {
  ScriptedServer server([](const std::string&, std::size_t) {
    return "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n" +
           std::string(1, ScriptedServer::kClose);
  });
  const RunResult result = run(h2_plan(server.address(), 5, 2));
  CHECK(result.measurement->errors == Errors{{"bad-response", 5}});
}
