// SPDX-License-Identifier: MIT
#include "fake_function.h"

#include <fmt/format.h>

#include <algorithm>

namespace dirigent::fuzz {

namespace {
constexpr std::string_view kClean = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean";
}  // namespace

std::vector<std::string_view> cut(std::string_view bytes, Choices& choices) {
  if (bytes.empty()) return {};
  std::size_t largest = bytes.size();
  switch (choices.below(16)) {
    case 0:
    case 1:
    case 2:
    case 3: largest = std::max<std::size_t>(bytes.size() / 2, 1); break;
    case 4:
    case 5: largest = std::max<std::size_t>(bytes.size() / 6, 1); break;
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

bool is_hop_by_hop(std::string_view name) {
  constexpr std::string_view kNames[] = {"keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
                                         "trailer"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) || name.starts_with("x-dirigent-");
}

std::optional<std::string> check_forwarded(const ReferenceMessage& seen, const ReferenceMessage& sent) {
  for (const char* once : {"host", "x-call-id", "x-start-time", "x-forwarded-for", "x-forwarded-proto"}) {
    if (seen.count(once) != 1) return fmt::format("the function gets {} of {}", seen.count(once), once);
  }
  if (seen.get("x-forwarded-for") != "127.0.0.1") return "the function gets a forged X-Forwarded-For";
  if (seen.count("connection") > 0 && seen.get("connection") != "upgrade")
    return "the function gets Connection: " + seen.get("connection");
  for (const auto& header : seen.headers) {
    const std::string& name = header.first;
    if (is_hop_by_hop(name) || name == "expect" || name == "forwarded" || name == "x-real-ip")
      return "the function gets " + name;
    constexpr std::string_view kOurs[] = {
        "host",       "x-call-id", "x-start-time", "x-forwarded-for",  "x-forwarded-proto", "x-forwarded-host",
        "connection", "upgrade",   "te",           "transfer-encoding"};
    if (std::find(std::begin(kOurs), std::end(kOurs), name) != std::end(kOurs)) continue;
    if (name == "sec-websocket-key" && sent.method == "CONNECT")
      continue;  // HTTP/2 has none (RFC 8441), the function wants one
    if (std::find(sent.headers.begin(), sent.headers.end(), header) == sent.headers.end())
      return "the function gets an invented " + name;
  }
  for (const std::string& trailer : seen.trailers) {
    if (std::find(sent.trailers.begin(), sent.trailers.end(), trailer) == sent.trailers.end())
      return "an invented trailer " + trailer;
  }
  return std::nullopt;
}

ReferenceMessage final_response(std::string_view bytes, bool answers_head, bool ended, std::size_t* size,
                                std::size_t* at) {
  std::size_t begin = 0;
  for (;;) {
    ReferenceMessage message = read_reference_response(bytes.substr(begin), answers_head, ended);
    const bool is_interim = message.reading == Reading::whole && message.status < 200 && message.status != 101;
    if (!is_interim) {
      if (size != nullptr) *size = begin + message.size;
      if (at != nullptr) *at = begin;
      return message;
    }
    begin += message.size;
  }
}

void FakeFunction::begin(const std::string& answer, Choices& choices) {
  text_ = answer;
  choices_ = &choices;
  early_ = choices.one_in(8);
  end_ = choices.one_in(3) ? (choices.one_in(3) ? Peer::End::reset : Peer::End::close) : Peer::End::none;
  spoken_ = has_surplus_ = head_may_go_on_ = false;
  answer_ = {};
  seen_.clear();
  finding_.reset();
}

bool FakeFunction::keeps_waiting() const {
  return spoken_ && (answer_.reading == Reading::incomplete || head_may_go_on_) && end_ == Peer::End::none;
}

void FakeFunction::speak(Connection& connection, const ReferenceMessage& request) {
  const bool is_head = request.method == "HEAD";
  if (spoken_) {
    connection.peer->send(is_head ? kClean.substr(0, kClean.size() - 5) : kClean);
    return;
  }
  spoken_ = true;
  std::size_t size = 0;
  std::size_t at = 0;
  answer_ = final_response(text_, is_head, end_ == Peer::End::close, &size, &at);
  has_surplus_ = answer_.reading == Reading::whole && size < text_.size();
  head_may_go_on_ = text_.find("\r\n\r\n", at) == std::string::npos;
  connection.tunnel = answer_.status == 101 && request.count("upgrade") > 0;
  for (const std::string_view piece : cut(text_, *choices_)) connection.peer->send(piece);
  connection.peer->end_after_sending(end_);
}

void FakeFunction::listen_to(Connection& connection) {
  std::string& bytes = connection.peer->received;
  while (!bytes.empty() && !connection.tunnel && !finding_) {
    ReferenceMessage request = read_reference_request(bytes);
    if (request.reading == Reading::broken) finding_ = "the function gets nonsense: " + request.why;
    if (request.reading == Reading::incomplete && early_ && request.head_is_whole && !connection.answered) {
      connection.answered = true;
      speak(connection, request);
    }
    if (request.reading != Reading::whole) return;
    if (!connection.answered) speak(connection, request);
    connection.answered = false;
    bytes.erase(0, request.size);
    seen_.push_back(std::move(request));
  }
}

bool FakeFunction::turn() {
  bool moved = false;
  while (auto peer = net_.accept_sandbox()) {
    connections_.push_back(std::make_unique<Connection>());
    connections_.back()->peer = std::move(peer);
    moved = true;
  }
  for (auto& connection : connections_) {
    if (connection->peer->turn()) moved = true;
    listen_to(*connection);
    // A server whose peer has closed closes as well.
    if (connection->peer->saw_end() && connection->peer->has_sent_all()) connection->peer->close(true);
  }
  return moved;
}

}  // namespace dirigent::fuzz
