// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "http1.h"
#include "reference.h"
#include "roles/data/body_decoder.h"
#include "roles/data/http_head.h"

namespace dirigent::fuzz {

namespace {

using namespace roles;

std::uint64_t hash(std::string_view text) { return std::hash<std::string_view>{}(text); }

struct Scanned {
  HeadScanner::Verdict verdict = HeadScanner::Verdict::need_more;
  std::size_t size = 0;
  std::string problem;
  bool operator==(const Scanned&) const = default;
};

Scanned scan(std::string_view bytes, Choices* choices) {
  HeadScanner scanner;
  Scanned scanned;
  for (std::size_t end = choices != nullptr ? 0 : bytes.size();;) {
    scanned.verdict = scanner.scan(bytes.substr(0, end));
    if (scanned.verdict != HeadScanner::Verdict::need_more || end == bytes.size()) break;
    end += 1 + choices->below(std::min<std::size_t>(bytes.size() - end, 64));
  }
  if (scanned.verdict == HeadScanner::Verdict::complete) scanned.size = scanner.head_size();
  if (scanned.verdict == HeadScanner::Verdict::bad) scanned.problem = scanner.problem();
  return scanned;
}

struct Decoded {
  std::string payload;
  std::string trailers;
  std::string problem;
  bool done = false;
  std::size_t consumed = 0;  // meaningful when done
};

Decoded decode(const MessageHead& head, std::string_view bytes, Choices* choices) {
  BodyDecoder decoder;
  decoder.begin(head.framing, head.content_length);
  decoder.withhold_listed(head);
  Decoded decoded;
  std::size_t at = 0;
  while (at < bytes.size() && !decoder.done() && decoder.problem() == nullptr) {
    const std::size_t left = bytes.size() - at;
    const std::size_t size = choices != nullptr ? 1 + choices->below(std::min<std::size_t>(left, 64)) : left;
    std::string piece(bytes.substr(at, size));
    const BodyDecoder::Step step = decoder.decode(piece.data(), piece.size());
    if (step.produced > step.consumed || step.consumed > piece.size()) {
      decoded.problem = "THE DECODER INVENTS BYTES";
      return decoded;
    }
    if (step.consumed == 0 && !decoder.done() && decoder.problem() == nullptr) {
      decoded.problem = "THE DECODER STANDS STILL";
      return decoded;
    }
    decoded.payload.append(piece, 0, step.produced);
    at += step.consumed;
  }
  decoded.done = decoder.done();
  decoded.consumed = at;
  if (decoder.problem() != nullptr) decoded.problem = decoder.problem();
  decoded.trailers = decoder.trailers();
  return decoded;
}

std::optional<std::string> compare_bodies(const MessageHead& head, std::string_view bytes, Choices& choices,
                                          Decoded& whole) {
  whole = decode(head, bytes, nullptr);
  const Decoded cut = decode(head, bytes, &choices);
  if (whole.problem.starts_with("THE ") || cut.problem.starts_with("THE ")) return whole.problem + cut.problem;
  if (whole.done != cut.done || whole.problem != cut.problem ||
      (whole.done && (whole.consumed != cut.consumed || whole.trailers != cut.trailers))) {
    return fmt::format("cuts change a body: \"{}\" and \"{}\"", whole.problem, cut.problem);
  }
  // Payload before an error depends on where the error is seen, but one is the beginning of the other.
  if (whole.payload != cut.payload) return "cuts change a payload";
  return std::nullopt;
}

std::optional<std::string> check_views(const MessageHead& head, std::string_view bytes) {
  for (const HeaderField& field : head) {
    for (const std::string_view text : {field.name, field.value}) {
      if (text.empty()) continue;
      if (text.data() < bytes.data() || text.data() + text.size() > bytes.data() + bytes.size())
        return "a view leaves its head";
      for (const char c : text) {
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) return "a control byte in a header";
      }
    }
    if (!is_token(field.name)) return fmt::format("\"{}\" is not a name", field.name);
  }
  return std::nullopt;
}

// The head as it would be written again.
std::string rewrite(const RequestHead& head) {
  std::string text = fmt::format("{} {} HTTP/1.1\r\n", head.method, head.target);
  bool has_host = false;
  for (const HeaderField& field : head) {
    has_host = has_host || field.kind == HeaderKind::host;
    if (!head.is_hop_by_hop(field)) text += fmt::format("{}: {}\r\n", field.name, field.value);
  }
  if (!has_host) text += "Host: f\r\n";
  if (head.framing == Framing::chunked) text += "Transfer-Encoding: chunked\r\n";
  return text + "\r\n";
}

std::optional<std::string> check_request(std::string_view bytes, std::size_t head_size, Choices& choices,
                                         std::uint64_t& behaviour) {
  const HeadLimits limits;
  RequestHead head;
  const std::string_view own = bytes.substr(0, head_size);
  const char* wrong = parse_request_head(own, limits, head);
  if (wrong != nullptr) {
    mix(behaviour, hash(wrong));
    return std::nullopt;
  }
  mix(behaviour, static_cast<std::uint64_t>(head.framing) + 8);
  if (auto finding = check_views(head, own)) return finding;
  if (head.target != "*" && !head.target.starts_with('/')) return "a target that is no path";
  Decoded body;
  if (auto finding = compare_bodies(head, bytes.substr(head_size), choices, body)) return finding;
  mix(behaviour, hash(body.problem));

  const ReferenceMessage reference = read_reference_request(bytes);
  if (reference.reading == Reading::broken && body.problem.empty())
    return "accepted, but for the reference " + reference.why;
  if (body.done != (reference.reading == Reading::whole) && body.problem.empty())
    return "the reference sees another end";
  if (body.done && (reference.body != body.payload || reference.size != head_size + body.consumed))
    return "the reference reads another body";

  RequestHead again;
  const std::string text = rewrite(head);
  const Scanned scanned = scan(text, nullptr);
  if (scanned.verdict != HeadScanner::Verdict::complete || scanned.size != text.size())
    return "what is written again is no head: " + text;
  HeadLimits wide = limits;
  wide.headers_max += 2;
  if (const char* problem = parse_request_head(text, wide, again))
    return fmt::format("what is written again is refused: {}: {}", problem, text);
  if (again.framing != head.framing || again.content_length != head.content_length || again.target != head.target ||
      again.method != head.method) {
    return "what is written again is another request: " + text;
  }
  return std::nullopt;
}

std::optional<std::string> check_response(std::string_view bytes, std::size_t head_size, bool answers_head,
                                          Choices& choices, std::uint64_t& behaviour) {
  ResponseHead head;
  const std::string_view own = bytes.substr(0, head_size);
  const char* wrong = parse_response_head(own, HeadLimits{}, answers_head, head);
  if (wrong != nullptr) {
    mix(behaviour, hash(wrong));
    return std::nullopt;
  }
  mix(behaviour, static_cast<std::uint64_t>(head.framing) + 16);
  mix(behaviour, static_cast<std::uint64_t>(head.status / 100));
  if (auto finding = check_views(head, own)) return finding;
  Decoded body;
  if (auto finding = compare_bodies(head, bytes.substr(head_size), choices, body)) return finding;
  mix(behaviour, hash(body.problem));
  const ReferenceMessage reference = read_reference_response(bytes, answers_head, false);
  if (reference.reading == Reading::broken && body.problem.empty())
    return "accepted, but for the reference " + reference.why;
  if (reference.status != head.status) return "the reference reads another status";
  const bool is_over = body.done || head.framing == Framing::none;
  if (is_over != (reference.reading == Reading::whole) && body.problem.empty())
    return "the reference sees another end of a response";
  if (is_over && reference.body != body.payload) return "the reference reads another body of a response";
  return std::nullopt;
}

}  // namespace

Outcome check_parsers(const Input& input) {
  Outcome outcome;
  Choices choices(input.choices);
  for (std::size_t part = 0; part < 2; ++part) {
    const std::string_view bytes = input.parts[part];
    const Scanned whole = scan(bytes, nullptr);
    if (scan(bytes, &choices) != whole) {
      outcome.finding = "cuts change where a head ends: " + whole.problem;
      return outcome;
    }
    mix(outcome.behaviour, static_cast<std::uint64_t>(whole.verdict) + part * 8);
    mix(outcome.behaviour, hash(whole.problem));
    if (whole.verdict != HeadScanner::Verdict::complete || whole.size > HeadLimits{}.head_bytes_max) continue;
    outcome.finding = part == 0 ? check_request(bytes, whole.size, choices, outcome.behaviour)
                                : check_response(bytes, whole.size, choices.one_in(4), choices, outcome.behaviour);
    if (outcome.finding) return outcome;
  }
  return outcome;
}

}  // namespace dirigent::fuzz
