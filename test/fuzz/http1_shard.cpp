// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>

#include "fake_function.h"
#include "http1.h"
#include "loopback.h"
#include "reference.h"
#include "roles/data/http_head.h"
#include "roles/data/naming.h"

namespace dirigent::fuzz {

namespace {

constexpr int kQuietTurns = 3;      // without anything moving: it is over
constexpr int kTurnsMax = 200'000;  // never reached unless somebody spins

// The requests that a client's bytes are, up to the first that says that it is the last. One that is incomplete or
// broken behind its head is the last as well: it may have been answered before that was to be seen.
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
  return method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE" || method == "OPTIONS" ||
         method == "TRACE";
}

}  // namespace

struct ShardCheck::State {
  Loopback net;
  FakeFunction function{net};
  std::optional<std::string> finding;

  void complain(std::string what) {
    if (!finding) finding = std::move(what);
  }

  // Everybody's turn, until nothing moves.
  void settle(Peer* client) {
    int quiet = 0;
    for (int turns = 0; quiet < kQuietTurns && !finding; ++turns) {
      if (turns > kTurnsMax) complain("it never comes to rest");
      bool moved = client != nullptr && client->turn();
      net.turn();
      moved = function.turn() || moved;
      if (function.finding()) complain(*function.finding());
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
    const std::vector<ReferenceMessage>& seen = function.seen();
    std::size_t next = 0;
    for (std::size_t i = 0; i < seen.size() && !finding;) {
      while (next < requests.size() && !routed_target(requests[next])) ++next;
      const bool is_next = next < requests.size() && requests[next].reading == Reading::whole &&
                           seen[i].method == requests[next].method &&
                           seen[i].target == *routed_target(requests[next]) && seen[i].body == requests[next].body;
      if (!is_next && function.early() && next < requests.size() && i == 0) {
        ++next;  // answered before it was complete, it may never have become so
        continue;
      }
      if (is_next) {
        if (auto wrong = check_forwarded(seen[i], requests[next])) complain(*wrong);
        ++next;
        ++i;
        continue;
      }
      const bool is_again = i > 0 && seen[i].target == seen[i - 1].target && seen[i].method == seen[i - 1].method &&
                            is_repeatable(seen[i].method);
      if (!is_again)
        complain(fmt::format("the function gets {} {}, which nobody sent", seen[i].method, seen[i].target));
      ++i;
    }
  }

  void check_answer_of_function(const ReferenceMessage& response, bool is_first) {
    if (response.reading != Reading::whole || response.count("x-dirigent-reason") > 0) return;
    const ReferenceMessage& answer = function.answer();
    if (response.count("x-call-id") != 1) complain("an answer without one X-Call-Id");
    for (const auto& [name, value] : response.headers) {
      if (is_hop_by_hop(name)) complain("the client gets " + name);
    }
    if (!is_first) {
      if (!function.has_surplus() && response.body != "clean" && !response.body.empty())
        complain("a later request gets another answer: " + response.body);
      return;
    }
    if (answer.reading == Reading::broken) complain("a false answer: the sandbox's was broken: " + answer.why);
    if (response.status != answer.status) complain(fmt::format("status {} for {}", response.status, answer.status));
    if (response.status == 101) return;
    if (answer.reading == Reading::incomplete) complain("a whole answer for half of one");
    if (response.body != answer.body) complain("the client gets another body");
  }

  // The client's side. Returns how many final responses there were.
  std::size_t check_responses(const Peer& client, const std::vector<ReferenceMessage>& requests,
                              std::uint64_t& behaviour) {
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
    Choices choices(given.choices);
    finding.reset();
    function.begin(given.parts[1], choices);
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
      return function.keeps_waiting() || client->saw_end() || client->received.find("\r\n\r\n") != std::string::npos;
    };
    if (must_answer && !settle_until(client.get(), is_answered)) complain("a request is never answered");
    if (!finding) check_seen(requests);
    std::size_t responses = 0;
    if (!finding && !leaves_early) responses = check_responses(*client, requests, outcome.behaviour);
    mix(outcome.behaviour, function.seen().size() * 16 + responses);

    client->close(true);
    const auto is_over = [&] { return net.plane().connections() + net.plane().in_flight() == 0; };
    settle(nullptr);
    if (!settle_until(nullptr, is_over)) {
      complain(net.plane().in_flight() > 0 ? "a slot is never given back" : "a client connection is never closed");
    }
    function.close_all();
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
