// SPDX-License-Identifier: MIT
//
// Fuzzes the HTTP/2 front end: parts[0] is what the client sends, preface and frames; parts[1] what the sandbox answers
// in HTTP/1.1. However the frames are spoilt, the function gets only requests that some stream carried, well-formed and
// with no line that nobody sent; the client gets well-formed frames; and afterwards nothing is left open.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "driver.h"
#include "fake_function.h"
#include "http1.h"
#include "http2_frames.h"
#include "loopback.h"
#include "mutation.h"

using namespace dirigent;
using namespace dirigent::fuzz;

namespace {

constexpr int kQuietTurns = 3;
constexpr int kTurnsMax = 200'000;

FieldList get(std::string path, std::string authority = "f") {
  return {{":method", "GET"}, {":scheme", "http"}, {":authority", std::move(authority)}, {":path", std::move(path)}};
}
FieldList post(std::string path) {
  return {{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", std::move(path)}};
}

std::vector<Input> seeds() {
  FieldList with_length = post("/length");
  with_length.emplace_back("content-length", "4");
  FieldList with_cookies = get("/cookies");
  with_cookies.insert(with_cookies.end(), {{"cookie", "a=1"}, {"cookie", "b=2"}, {"te", "trailers"}, {"x-mine", "1"}});
  FieldList head = get("/head");
  head[0].second = "HEAD";
  FieldList options = get("*");
  options[0].second = "OPTIONS";
  FieldList tunnel = get("/tunnel");
  tunnel[0].second = "CONNECT";
  tunnel.emplace_back(":protocol", "websocket");
  std::string cut_short = connection_of({{with_length, "body and more"}});
  cut_short.resize(cut_short.size() - 9);
  const std::vector<std::string> clients{
      cut_short,
      connection_of({{get("/"), ""}}),
      connection_of({{get("/a"), ""}, {get("/b"), ""}, {get("/c", "nobody"), ""}}),
      connection_of({{post("/body"), "body"}}),
      connection_of({{with_length, "body"}}),
      connection_of({{with_cookies, ""}, {head, ""}}),
      connection_of({{options, ""}, {get("/function/f/x", "elsewhere"), ""}}),
      connection_of({{tunnel, "tunnel"}}),
      connection_of({{post("/large"), std::string(5000, 'x')}, {get("/behind"), ""}}),
  };
  const std::vector<std::string> answers{
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 3\r\n\r\nuntil the end",
      "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
      "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nbytes",
      "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
      "nonsense\r\n\r\n",
  };
  std::vector<Input> all;
  for (const std::string& client : clients) {
    for (const std::string& answer : answers) all.push_back({{client, answer}, all.size()});
  }
  return all;
}

class Http2Check {
 public:
  Outcome run(const Input& input) {
    Choices choices(input.choices);
    finding_.reset();
    function_.begin(input.parts[1], choices);
    auto client = net_.connect_client();
    if (client == nullptr) return {};
    for (const std::string_view piece : cut(input.parts[0], choices)) client->send(piece);
    const std::uint64_t client_end = choices.below(8);
    if (client_end == 0) client->end_after_sending(choices.one_in(2) ? Peer::End::reset : Peer::End::close);
    if (client_end == 1) client->end_after_sending(Peer::End::half);
    settle(client.get());

    Outcome outcome;
    const std::vector<ReferenceMessage> requests = requests_in_frames(input.parts[0]);
    for (const ReferenceMessage& seen : function_.seen()) {
      if (finding_) break;
      check_seen(seen, requests);
    }
    // What only begins like the preface is answered in HTTP/1.1.
    if (input.parts[0].starts_with(kClientPreface)) {
      if (const char* wrong = check_server_frames(client->received)) complain(std::string("the client gets ") + wrong);
      for (const Frame& frame : frames_in(client->received)) {
        mix(outcome.behaviour, frame.type * 64 + frame.flags);
        if (frame.type == kReset || frame.type == kGoaway)
          mix(outcome.behaviour, std::hash<std::string>{}(frame.payload.substr(0, 8)));
      }
    }
    mix(outcome.behaviour, function_.seen().size());

    client->close(true);
    settle(nullptr);
    const auto left = [this] { return net_.plane().connections() + net_.plane().in_flight(); };
    for (int i = 0; left() > 0 && !finding_ && i < 2000; ++i) {
      settle(nullptr);
      if (left() > 0) ::usleep(1000);
    }
    if (left() > 0)
      complain(net_.plane().in_flight() > 0 ? "a slot is never given back" : "a client connection is never closed");
    function_.close_all();
    net_.turn();
    net_.turn();
    if (net_.healed()) return {};
    outcome.finding = finding_;
    return outcome;
  }

 private:
  void complain(std::string what) {
    if (!finding_) finding_ = std::move(what);
  }
  void settle(Peer* client) {
    int quiet = 0;
    for (int turns = 0; quiet < kQuietTurns && !finding_; ++turns) {
      if (turns > kTurnsMax) complain("it never comes to rest");
      bool moved = client != nullptr && client->turn();
      net_.turn();
      moved = function_.turn() || moved;
      if (function_.finding()) complain(*function_.finding());
      quiet = moved ? 0 : quiet + 1;
    }
  }
  // Some stream carried it: same method, path and body, and no header that is not that stream's or ours.
  void check_seen(const ReferenceMessage& seen, const std::vector<ReferenceMessage>& requests) {
    std::string why = "which no stream carried";
    for (const ReferenceMessage& sent : requests) {
      const bool is_named_by_path = sent.target.starts_with("/function/f");
      std::string target = is_named_by_path ? sent.target.substr(11) : sent.target;
      if (!target.starts_with('/') && target != "*") target.insert(0, "/");
      // An extended CONNECT becomes an upgrade.
      const bool is_upgrade = sent.method == "CONNECT" && seen.method == "GET" && seen.count("upgrade") == 1;
      if ((sent.method != seen.method && !is_upgrade) || target != seen.target) continue;
      // With its length a request is whole before its stream has ended, and what comes too much comes too late.
      const bool has_length =
          sent.get("content-length") == std::to_string(seen.body.size()) && sent.body.starts_with(seen.body);
      const bool is_whole = sent.reading == Reading::whole && sent.body == seen.body;
      if (!is_upgrade && !is_whole && !has_length) {
        why = "whose body is another";
        continue;
      }
      const auto wrong = check_forwarded(seen, sent);
      if (!wrong) return;
      why = "but " + *wrong;
    }
    complain(fmt::format("the function gets {} {}, {}", seen.method, seen.target, why));
  }

  Loopback net_;
  FakeFunction function_{net_};
  std::optional<std::string> finding_;
};

}  // namespace

int main(int argc, char** argv) {
  Http2Check check;
  Target target;
  target.name = "http2";
  target.seeds = seeds();
  target.mutate = [](std::string& part, const std::string& other, Rng& rng) {
    if (part.starts_with("HTTP/") || part.starts_with("nonsense")) {
      mutate_http_text(part, other, rng);
    } else {
      mutate_http2(part, other, rng);
    }
  };
  target.run = [&](const Input& input) {
    if (input.parts.size() != 2) return Outcome{"an input of this target has two parts", 0};
    return check.run(input);
  };
  return run_fuzzer(argc, argv, target);
}
