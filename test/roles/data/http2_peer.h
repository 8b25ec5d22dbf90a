// SPDX-License-Identifier: MIT
//
// A blocking HTTP/2 endpoint of either side over a Wire: a client for tests, and what fake sandboxes serve with. Reads
// give up after 10 s, so that a test that goes wrong fails instead of hanging. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness.h"

struct nghttp2_session;

namespace dirigent::test {

using Fields = std::vector<std::pair<std::string, std::string>>;
std::string field(const Fields& fields, std::string_view name);  // the first one, "" when absent
int count_fields(const Fields& fields, std::string_view name);

struct PeerStream {
  std::int32_t id = 0;
  Fields head;
  Fields trailers;
  std::vector<int> interim;   // statuses below 200
  std::string body;
  bool has_head = false;
  bool ended = false;         // the other side has sent its last
  bool ended_with_head = false;
  bool closed = false;
  std::uint32_t error = 0;    // with which it was closed
  std::size_t taken = 0;      // of the body, by the test

  // To the other side.
  std::string output;
  Fields output_trailers;
  bool last = false;
  bool deferred = false;

  int status() const;
};

class Http2Peer {
 public:
  enum class Side { client, server };
  struct Options {
    std::uint32_t stream_window = 65535;
    bool returns_window = true;   // false: what arrives is never given back
    std::uint32_t streams_max = 0;
    bool sends_preface = true;
    bool checks = true;           // false: sends what nghttp2 would refuse to
  };
  Http2Peer(Wire wire, Side side, Options options);
  Http2Peer(Wire wire, Side side) : Http2Peer(std::move(wire), side, Options()) {}
  Http2Peer(const Http2Peer&) = delete;
  Http2Peer& operator=(const Http2Peer&) = delete;
  ~Http2Peer();

  // --- client
  // Without `last` the body goes on with write(). Without `at_once` it leaves with whatever is sent next.
  std::int32_t request(const Fields& head, std::string_view body = {}, bool last = true, bool at_once = true);
  std::int32_t get(const std::string& authority, const std::string& path = "/");
  // Until the stream has ended both ways; a copy of it. Fails the test after 10 s of silence.
  PeerStream answer(std::int32_t id);
  // After an upgrade from HTTP/1.1: the answer is on stream 1.
  void begin_upgraded(std::string_view settings);

  // --- server
  void respond(std::int32_t id, const Fields& head, std::string_view body = {}, bool last = true);
  void interim(std::int32_t id, const Fields& head);

  // --- both
  void write(std::int32_t id, std::string_view body, bool last);
  void end_with(std::int32_t id, const Fields& trailers);
  void reset(std::int32_t id, std::uint32_t error);
  void ping();
  void settings();
  void goaway();
  void return_window(std::int32_t id, std::size_t bytes);
  void flush();  // in one write
  // Reads once, at least a byte, and sends what that causes. False: the connection has ended.
  bool pump();
  bool pump_until(const std::function<bool()>& condition);
  PeerStream& stream(std::int32_t id) { return streams_[id]; }
  std::map<std::int32_t, PeerStream>& streams() { return streams_; }
  Wire& wire() { return wire_; }

  bool got_goaway = false;
  std::uint32_t goaway_error = 0;
  std::int32_t goaway_last = 0;
  std::uint32_t peer_streams_max() const;
  bool accepts_connect_protocol() const;

 private:
  friend struct PeerCallbacks;
  void collect();
  Wire wire_;
  Options options_;
  nghttp2_session* session_ = nullptr;
  std::map<std::int32_t, PeerStream> streams_;
  Fields block_;
  std::string held_;          // frames made, not sent
};

// What a fake sandbox serves: calls `on_change` whenever a stream has got further, until the connection ends.
FakeSandbox::Serve serving_http2(std::function<void(Http2Peer&, PeerStream&)> on_change,
                                 Http2Peer::Options options = Http2Peer::Options());
// Answers whole requests.
FakeSandbox::Serve answering_http2(std::function<void(Http2Peer&, PeerStream&)> answer,
                                   Http2Peer::Options options = Http2Peer::Options());

Http2Peer connect_http2(const std::string& address, Http2Peer::Options options = Http2Peer::Options());

}  // namespace dirigent::test
