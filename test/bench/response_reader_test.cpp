// SPDX-License-Identifier: MIT
#include "bench/response_reader.h"

#include "catch.h"
#include "bench/server_timing.h"

using namespace dirigent;
using namespace dirigent::bench;

namespace {

struct Seen {
  ResponseReader::State state;
  int status;
  std::string body;
  std::uint64_t body_bytes;
  std::string reason;
  double function_ms;
  bool keeps;
  std::size_t used;
  friend bool operator==(const Seen&, const Seen&) = default;
};

// In pieces of `size` bytes, up to the end of the response.
Seen read_in_pieces(std::string_view bytes, std::size_t size, bool to_head = false, bool closes = false) {
  ResponseReader reader;
  reader.begin(to_head);
  std::size_t used = 0;
  while (used < bytes.size() && reader.state() != ResponseReader::State::done &&
         reader.state() != ResponseReader::State::failed) {
    used += reader.feed(bytes.substr(used, size));
  }
  if (closes) reader.finish();
  return {reader.state(),
          reader.status(),
          std::string(reader.body()),
          reader.body_bytes(),
          std::string(reader.reason()),
          reader.timing().ms[static_cast<std::size_t>(Phase::function)],
          reader.keeps_connection(),
          used};
}

ResponseReader::State state_after(std::string_view bytes, bool closes = false) {
  return read_in_pieces(bytes, bytes.size(), false, closes).state;
}

}  // namespace

TEST_CASE("bench reader: a response reads the same however its bytes are cut") {
  const std::string length =
      "HTTP/1.1 503 Service Unavailable\r\nX-Dirigent-Reason: queue-full\r\nServer-Timing: "
      "fn;dur=1.5\r\nContent-Length: 5\r\n\r\nhello";
  const std::string chunked =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nserver-timing: fn;dur=2\r\n\r\n"
      "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
  for (const auto& response : {length, chunked}) {
    const std::string more = response + "HTTP/1.1 200 OK\r\n";
    const Seen whole = read_in_pieces(more, more.size());
    CHECK(whole.state == ResponseReader::State::done);
    CHECK(whole.keeps);
    CHECK(whole.used == response.size());
    for (std::size_t size = 1; size < more.size(); ++size) {
      INFO("pieces of " << size);
      CHECK(read_in_pieces(more, size) == whole);
    }
  }
  CHECK(read_in_pieces(length, 7) ==
        Seen{ResponseReader::State::done, 503, "hello", 5, "queue-full", 1.5, true, length.size()});
  CHECK(read_in_pieces(chunked, 7).body == "abc0123456789");
}

TEST_CASE("bench reader: only the beginning of a large body is kept, all of it is counted") {
  const std::string body(100'000, 'b');
  const Seen seen = read_in_pieces("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body, 4096);
  CHECK(seen.state == ResponseReader::State::done);
  CHECK(seen.body_bytes == 100'000);
  CHECK(seen.body == body.substr(0, kBodyKept));
}

TEST_CASE("bench reader: answers without a body end with their head") {
  CHECK(state_after("HTTP/1.1 204 No Content\r\n\r\n") == ResponseReader::State::done);
  CHECK(state_after("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n") == ResponseReader::State::done);
  CHECK(state_after("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == ResponseReader::State::done);
  CHECK(read_in_pieces("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 9, true).state == ResponseReader::State::done);
}

TEST_CASE("bench reader: a response without a length ends with the connection, one cut short is broken") {
  const Seen seen = read_in_pieces("HTTP/1.1 200 OK\r\n\r\nall of it", 4, false, true);
  CHECK(seen.state == ResponseReader::State::done);
  CHECK(seen.body == "all of it");
  CHECK_FALSE(seen.keeps);
  CHECK(state_after("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true) == ResponseReader::State::failed);
  CHECK(state_after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true) ==
        ResponseReader::State::failed);
  CHECK(state_after("HTTP/1.1 200", true) == ResponseReader::State::failed);
}

TEST_CASE("bench reader: what cannot be delimited with certainty is an error") {
  const std::vector<std::string> broken{"SSH-2.0-OpenSSH_9.2\r\n\r\n",
                                        "HTTP/2.0 200 OK\r\n\r\n",
                                        "HTTP/1.1 20 OK\r\n\r\n",
                                        "HTTP/1.1 2000 OK\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                                        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\n",
                                        "HTTP/1.1 200 OK\r\nX: " + std::string(kHeadBytesMax, 'x')};
  for (const auto& bytes : broken) {
    INFO(bytes.substr(0, 100));
    CHECK(state_after(bytes) == ResponseReader::State::failed);
    CHECK(read_in_pieces(bytes, 3).state == ResponseReader::State::failed);
  }
}

TEST_CASE("bench reader: Connection and the version say whether the connection can be kept") {
  const std::string end = "Content-Length: 0\r\n\r\n";
  CHECK(read_in_pieces("HTTP/1.1 200 OK\r\n" + end, 100).keeps);
  CHECK_FALSE(read_in_pieces("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n" + end, 100).keeps);
  CHECK_FALSE(read_in_pieces("HTTP/1.0 200 OK\r\n" + end, 100).keeps);
  CHECK(read_in_pieces("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + end, 100).keeps);
}

TEST_CASE("server timing: the platform's phases are read, what others say is passed over") {
  Timing timing;
  read_server_timing(
      "cold;desc=\"node, \\\"7\\\"\", db;dur=99, queue;dur=0.5, create;desc=\"a;b\";dur=\"3.25\", fn;dur=1e1, "
      "proxy;dur=nonsense",
      timing);
  CHECK(timing.is_present);
  CHECK(timing.is_cold);
  CHECK(timing.ms[static_cast<std::size_t>(Phase::queue)] == 0.5);
  CHECK(timing.ms[static_cast<std::size_t>(Phase::create)] == 3.25);
  CHECK(timing.ms[static_cast<std::size_t>(Phase::function)] == 10);
  CHECK(timing.ms[static_cast<std::size_t>(Phase::proxy)] == 0);

  Timing warm;
  read_server_timing("cold;desc=\"no\", fn;dur=1", warm);
  CHECK(warm.is_present);
  CHECK_FALSE(warm.is_cold);

  Timing foreign;
  for (const auto* header : {"", ",", ";", "db;dur=5", "fn", "\"", "a;b=\"", ";;;,,,", "queue;dur=-3", "queue;dur=inf"})
    read_server_timing(header, foreign);
  CHECK(foreign.ms == std::array<double, kPhases>{});
}
