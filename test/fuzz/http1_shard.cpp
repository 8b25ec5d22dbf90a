// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>

#include "http1.h"
#include "loopback.h"
#include "reference.h"
#include "roles/data/http_head.h"
#include "roles/data/naming.h"

namespace dirigent::fuzz {

namespace {

constexpr std::string_view kClean = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean";
constexpr int kQuietTurns = 3;      // without anything moving: it is over
constexpr int kTurnsMax = 200'000;  // never reached unless somebody spins

std::vector<std::string_view> cut(std::string_view bytes, Choices& choices) {
  if (bytes.empty()) return {};
  std::size_t largest = bytes.size();
  switch (choices.below(16)) {
    case 0: case 1: case 2: case 3: largest = std::max<std::size_t>(bytes.size() / 2, 1); break;
    case 4: case 5: largest = std::max<std::size_t>(bytes.size() / 6, 1); break;
    case 6: largest = std::max<std::size_t>(bytes.size() / 64, 3); break;
    default: return {bytes};
  }
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t size = 1 + choices.below(std::min(largest, bytes.size() - at));
    pieces.push_back(bytes.substr(at, size));
    at += size;
  }
  return pieces;
}

// The requests that a client's bytes are, up to the first that says that it is the last. One that is incomplete or broken
// behind its head is the last as well: it may have been answered before that was to be seen.
std::vector<ReferenceMessage> requests_in(std::string_view bytes) {
  std::vector<ReferenceMessage> requests;
  while (!bytes.empty()) {
    ReferenceMessage request = read_reference_request(bytes);
    if (!request.head_is_whole) break;
    bytes.remove_prefix(request.size);
    requests.push_back(std::move(request));
    if (requests.back().last || requests.back().reading != Reading::whole) break;
  }
  return requests;
}

// What the function should see of a request: its target, or nullopt when the request is not for it.
std::optional<std::string> routed_target(const ReferenceMessage& request) {
  std::string target = request.target;
  if (lower_case(target).starts_with("http://")) {
    const std::size_t slash = target.find('/', 7);
    target = slash == std::string::npos ? "/" : target.substr(slash);
  }
  const roles::NamedPath path = roles::name_by_path(target);
  if (path.kind == roles::PathKind::reserved) return std::nullopt;
  if (path.kind == roles::PathKind::by_path) {
    if (roles::canonical_name(path.name) != "f") return std::nullopt;
    return path.rest.starts_with('/') ? std::string(path.rest) : "/" + std::string(path.rest);
  }
  const std::string host = request.get("host");
  const roles::HostNames names(host);
  if (std::find(names.begin(), names.end(), "f") == names.end()) return std::nullopt;
  return target;
}

bool is_repeatable(const std::string& method) {
  return method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE" || method == "OPTIONS" || method == "TRACE";
}

bool is_hop_by_hop(std::string_view name) {
  constexpr std::string_view kNames[] = {"keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "trailer"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) || name.starts_with("x-dirigent-");
}

std::optional<std::string> check_forwarded(const ReferenceMessage& seen, const ReferenceMessage& sent) {
  for (const char* once : {"host", "x-call-id", "x-start-time", "x-forwarded-for", "x-forwarded-proto"}) {
    if (seen.count(once) != 1) return fmt::format("the function gets {} of {}", seen.count(once), once);
  }
  if (seen.get("x-forwarded-for") != "127.0.0.1") return "the function gets a forged X-Forwarded-For";
  if (seen.count("connection") > 0 && seen.get("connection") != "upgrade") return "the function gets Connection: " + seen.get("connection");
  for (const auto& header : seen.headers) {
    const std::string& name = header.first;
    if (is_hop_by_hop(name) || name == "expect" || name == "forwarded" || name == "x-real-ip") return "the function gets " + name;
    constexpr std::string_view kOurs[] = {"host", "x-call-id", "x-start-time", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
                                          "connection", "upgrade", "te", "transfer-encoding"};
    if (std::find(std::begin(kOurs), std::end(kOurs), name) != std::end(kOurs)) continue;
    if (std::find(sent.headers.begin(), sent.headers.end(), header) == sent.headers.end()) return "the function gets an invented " + name;
  }
  for (const std::string& trailer : seen.trailers) {
    if (std::find(sent.trailers.begin(), sent.trailers.end(), trailer) == sent.trailers.end()) return "an invented trailer " + trailer;
  }
  return std::nullopt;
}

}  // namespace

struct ShardCheck::State {
  struct Connection {
    std::unique_ptr<Peer> peer;
    bool answered = false;  // the request that is still arriving
    bool tunnel = false;
  };

  Loopback net;
  // of one run
  const Input* input = nullptr;
  Choices choices{0};
  Peer::End answer_end = Peer::End::none;
  bool early = false;
  bool spoken = false;
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<ReferenceMessage> seen;
  std::optional<std::string> finding;
  ReferenceMessage answer;  // the final one of the sandbox's, as the reference reads it
  std::size_t final_at = 0;
  bool head_may_go_on = false;  // of the answer: nobody need judge it yet
  // Bytes behind the answer: when they come after the next request, nobody can tell them from its answer.
  bool has_surplus = false;

  void complain(std::string what) {
    if (!finding) finding = std::move(what);
  }

  ReferenceMessage final_response(std::string_view bytes, bool answers_head, bool ended, std::size_t* size = nullptr) {
    std::size_t at = 0;
    for (;;) {
      ReferenceMessage message = read_reference_response(bytes.substr(at), answers_head, ended);
      const bool is_interim = message.reading == Reading::whole && message.status < 200 && message.status != 101;
      if (!is_interim) {
        final_at = at;
        if (size != nullptr) *size = at + message.size;
        return message;
      }
      at += message.size;
    }
  }

  void speak(Connection& connection, const ReferenceMessage& request) {
    const bool is_head = request.method == "HEAD";
    if (spoken) {
      connection.peer->send(is_head ? kClean.substr(0, kClean.size() - 5) : kClean);
      return;
    }
    spoken = true;
    std::size_t size = 0;
    answer = final_response(input->parts[1], is_head, answer_end == Peer::End::close, &size);
    has_surplus = answer.reading == Reading::whole && size < input->parts[1].size();
    head_may_go_on = input->parts[1].find("\r\n\r\n", final_at) == std::string::npos;
    connection.tunnel = answer.status == 101 && request.count("upgrade") > 0;
    for (const std::string_view piece : cut(input->parts[1], choices)) connection.peer->send(piece);
    connection.peer->end_after_sending(answer_end);
  }

  void listen_to(Connection& connection) {
    std::string& bytes = connection.peer->received;
    while (!bytes.empty() && !connection.tunnel && !finding) {
      ReferenceMessage request = read_reference_request(bytes);
      if (request.reading == Reading::broken) complain("the function gets nonsense: " + request.why);
      if (request.reading == Reading::incomplete && early && request.head_is_whole && !connection.answered) {
        connection.answered = true;
        speak(connection, request);
      }
      if (request.reading != Reading::whole) return;
      if (!connection.answered) speak(connection, request);
      connection.answered = false;
      bytes.erase(0, request.size);
      seen.push_back(std::move(request));
    }
  }

  // Everybody's turn, until nothing moves.
  void settle(Peer* client) {
    int quiet = 0;
    for (int turns = 0; quiet < kQuietTurns && !finding; ++turns) {
      if (turns > kTurnsMax) complain("it never comes to rest");
      bool moved = client != nullptr && client->turn();
      net.turn();
      while (auto peer = net.accept_sandbox()) {
        connections.push_back(std::make_unique<Connection>());
        connections.back()->peer = std::move(peer);
        moved = true;
      }
      for (auto& connection : connections) {
        if (connection->peer->turn()) moved = true;
        listen_to(*connection);
        // A server whose peer has closed closes as well.
        if (connection->peer->saw_end() && connection->peer->has_sent_all()) connection->peer->close(true);
      }
      quiet = moved ? 0 : quiet + 1;
    }
  }

  // The same, with patience: on a busy machine even loopback takes its time, and what looks like a hang may be none.
  template <class Done>
  bool settle_until(Peer* client, Done done) {
    for (int i = 0; !done() && !finding && i < 2000; ++i) {
      settle(client);
      if (!done()) ::usleep(1000);
    }
    return done();
  }

  void check_seen(const std::vector<ReferenceMessage>& requests) {
    std::size_t next = 0;
    for (std::size_t i = 0; i < seen.size() && !finding;) {
      while (next < requests.size() && !routed_target(requests[next])) ++next;
      const bool is_next = next < requests.size() && requests[next].reading == Reading::whole && seen[i].method == requests[next].method && seen[i].target == *routed_target(requests[next]) &&
                           seen[i].body == requests[next].body;
      if (!is_next && early && next < requests.size() && i == 0) {
        ++next;  // answered before it was complete, it may never have become so
        continue;
      }
      if (is_next) {
        if (auto wrong = check_forwarded(seen[i], requests[next])) complain(*wrong);
        ++next;
        ++i;
        continue;
      }
      const bool is_again = i > 0 && seen[i].target == seen[i - 1].target && seen[i].method == seen[i - 1].method && is_repeatable(seen[i].method);
      if (!is_again) complain(fmt::format("the function gets {} {}, which nobody sent", seen[i].method, seen[i].target));
      ++i;
    }
  }

  void check_answer_of_function(const ReferenceMessage& response, bool is_first) {
    if (response.reading != Reading::whole || response.count("x-dirigent-reason") > 0) return;
    if (response.count("x-call-id") != 1) complain("an answer without one X-Call-Id");
    for (const auto& [name, value] : response.headers) {
      if (is_hop_by_hop(name)) complain("the client gets " + name);
    }
    if (!is_first) {
      if (!has_surplus && response.body != "clean" && !response.body.empty()) complain("a later request gets another answer: " + response.body);
      return;
    }
    if (answer.reading == Reading::broken) complain("a false answer: the sandbox's was broken: " + answer.why);
    if (response.status != answer.status) complain(fmt::format("status {} for {}", response.status, answer.status));
    if (response.status == 101) return;
    if (answer.reading == Reading::incomplete) complain("a whole answer for half of one");
    if (response.body != answer.body) complain("the client gets another body");
  }

  // The client's side. Returns how many final responses there were.
  std::size_t check_responses(const Peer& client, const std::vector<ReferenceMessage>& requests, std::uint64_t& behaviour) {
    std::string_view bytes = client.received;
    std::size_t count = 0;
    bool is_first = true;
    while (!bytes.empty() && !finding) {
      const bool is_asked = count < requests.size();
      const bool is_head = is_asked && requests[count].method == "HEAD";
      std::size_t size = 0;
      const ReferenceMessage response = final_response(bytes, is_head, client.saw_end() && !client.saw_reset(), &size);
      mix(behaviour, static_cast<std::uint64_t>(response.status));
      for (const char c : response.get("x-dirigent-reason")) mix(behaviour, static_cast<unsigned char>(c));
      if (response.reading == Reading::broken) {
        complain("the client gets nonsense: " + response.why);
        break;
      }
      const bool is_own = response.count("x-dirigent-reason") > 0;
      if (!is_asked && response.head_is_whole && !is_own) complain("an answer that nobody asked for");
      if (is_asked && routed_target(requests[count]) && response.head_is_whole) {
        check_answer_of_function(response, is_first);
        is_first = false;
      }
      if (response.reading != Reading::whole) break;
      ++count;
      bytes.remove_prefix(std::min(size, bytes.size()));
      if (response.status == 101) break;
      // A refused HEAD is told why all the same: nothing is read behind it.
      if (response.last && !bytes.empty() && response.status != 400) complain("bytes behind the last answer");
      if (response.last) break;
    }
    return count;
  }

  Outcome run(const Input& given) {
    input = &given;
    choices = Choices(given.choices);
    finding.reset();
    seen.clear();
    spoken = false;
    answer = {};
    has_surplus = head_may_go_on = false;
    early = choices.one_in(8);
    answer_end = choices.one_in(3) ? (choices.one_in(3) ? Peer::End::reset : Peer::End::close) : Peer::End::none;
    const std::uint64_t client_end = choices.below(8);

    Outcome outcome;
    auto client = net.connect_client();
    if (client == nullptr) return outcome;
    std::vector<std::string_view> pieces = cut(given.parts[0], choices);
    const bool leaves_early = client_end == 0 && !pieces.empty();
    if (leaves_early) pieces.resize(1 + choices.below(pieces.size()));
    std::string sent;
    for (const std::string_view piece : pieces) {
      client->send(piece);
      sent += piece;
    }
    if (leaves_early) client->end_after_sending(choices.one_in(2) ? Peer::End::reset : Peer::End::close);
    if (client_end == 1) client->end_after_sending(Peer::End::half);
    settle(client.get());

    const std::vector<ReferenceMessage> requests = requests_in(sent);
    const bool must_answer = client_end > 1 && !requests.empty() && requests.front().reading == Reading::whole;
    const auto is_answered = [&] {
      const bool waits_for_sandbox = spoken && (answer.reading == Reading::incomplete || head_may_go_on) && answer_end == Peer::End::none;
      return waits_for_sandbox || client->saw_end() || client->received.find("\r\n\r\n") != std::string::npos;
    };
    if (must_answer && !settle_until(client.get(), is_answered)) complain("a request is never answered");
    if (!finding) check_seen(requests);
    std::size_t responses = 0;
    if (!finding && !leaves_early) responses = check_responses(*client, requests, outcome.behaviour);
    mix(outcome.behaviour, seen.size() * 16 + responses);

    client->close(true);
    const auto is_over = [&] { return net.plane().connections() + net.plane().in_flight() == 0; };
    settle(nullptr);
    if (!settle_until(nullptr, is_over)) {
      complain(net.plane().in_flight() > 0 ? "a slot is never given back" : "a client connection is never closed");
    }
    connections.clear();
    net.turn();
    net.turn();
    if (net.healed()) {
      finding.reset();  // the system ran out of ports or descriptors in the middle
      return Outcome{};
    }
    outcome.finding = finding;
    return outcome;
  }
};

ShardCheck::ShardCheck() : state_(std::make_unique<State>()) {}
ShardCheck::~ShardCheck() = default;
Outcome ShardCheck::run(const Input& input) { return state_->run(input); }

}  // namespace dirigent::fuzz
