// SPDX-License-Identifier: MIT
#include "roles/data/body_decoder.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace dirigent::roles {

namespace {
int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Fields that a reader may act on before it has seen the content, or that say who sent it (RFC 9110 6.5.1). Those that the
// proxy itself knows are left out of this list.
bool may_trail(std::string_view name) {
  static constexpr std::string_view kRefused[] = {
      "authorization", "www-authenticate", "cookie", "set-cookie", "content-type", "content-encoding", "content-range",
      "content-language", "content-location", "cache-control", "age", "expires", "vary", "location", "retry-after",
      "max-forwards", "range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range",
      "authentication-info", "pragma", "x-http-method-override"};
  if (header_kind(name) != HeaderKind::other) return false;
  return std::none_of(std::begin(kRefused), std::end(kRefused),
                      [name](std::string_view refused) { return equals_ignoring_case(refused, name); });
}
}  // namespace

void BodyDecoder::begin(Framing framing, std::uint64_t length) {
  framing_ = framing;
  state_ = State::size;
  digits_ = 0;
  remaining_ = framing == Framing::length ? length : 0;
  line_bytes_ = trailer_bytes_ = 0;
  payload_bytes_ = extension_bytes_ = 0;
  problem_ = nullptr;
  line_.clear();
  trailers_.clear();
  withheld_.clear();
  done_ = framing == Framing::none || (framing == Framing::length && length == 0);
}

void BodyDecoder::withhold_listed(const MessageHead& head) {
  if (framing_ != Framing::chunked) return;
  for (const HeaderField& field : head) {
    if (field.kind == HeaderKind::connection) withheld_.append(field.value).append(",");
  }
}

BodyDecoder::Step BodyDecoder::decode(char* data, std::size_t size) {
  if (done_ || problem_ != nullptr) return {};
  switch (framing_) {
    case Framing::none: return {};
    case Framing::until_close: return {size, size};
    case Framing::length: {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(size, remaining_));
      remaining_ -= part;
      done_ = remaining_ == 0;
      return {part, part};
    }
    case Framing::chunked: return decode_chunked(data, size);
  }
  return {};
}

bool BodyDecoder::end_of_input() {
  if (framing_ == Framing::until_close) done_ = true;
  return done_;
}

BodyDecoder::Step BodyDecoder::decode_chunked(char* data, std::size_t size) {
  Step step;
  while (step.consumed < size && !done_ && problem_ == nullptr) {
    const char c = data[step.consumed];
    switch (state_) {
      case State::size:
        ++step.consumed;
        if (const int digit = hex_value(c); digit >= 0) {
          if (++digits_ > 15) problem_ = "a chunk size is too long";
          remaining_ = remaining_ << 4 | static_cast<std::uint64_t>(digit);
        } else if (digits_ == 0 || (c != ';' && c != '\r')) {
          problem_ = "a chunk size is not hexadecimal";
        } else {
          state_ = c == ';' ? State::extension : State::size_newline;
        }
        break;
      case State::extension:
        ++step.consumed;
        if (c == '\r') {
          state_ = State::size_newline;
        } else if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) {
          problem_ = "a malformed chunk extension";
        } else if (++line_bytes_ > kLineMax || ++extension_bytes_ > kExtensionsMax + payload_bytes_) {
          problem_ = "the chunk extensions are too long";
        }
        break;
      case State::size_newline:
        ++step.consumed;
        if (c != '\n') problem_ = "a chunk size does not end with CR LF";
        state_ = remaining_ == 0 ? State::trailer : State::data;
        digits_ = 0;
        line_bytes_ = 0;
        break;
      case State::data: {
        const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(size - step.consumed, remaining_));
        if (step.produced != step.consumed) std::memmove(data + step.produced, data + step.consumed, part);
        step.consumed += part;
        step.produced += part;
        remaining_ -= part;
        payload_bytes_ += part;
        if (remaining_ == 0) state_ = State::data_return;
        break;
      }
      case State::data_return:
        ++step.consumed;
        if (c != '\r') problem_ = "a chunk is longer than its size";
        state_ = State::data_newline;
        break;
      case State::data_newline:
        ++step.consumed;
        if (c != '\n') problem_ = "a chunk does not end with CR LF";
        state_ = State::size;
        break;
      case State::trailer:
        ++step.consumed;
        read_trailer_byte(c);
        break;
    }
  }
  return step;
}

void BodyDecoder::read_trailer_byte(char c) {
  if (++trailer_bytes_ > kTrailersMax) {
    problem_ = "the trailers are too long";
    return;
  }
  if (c != '\n') {
    line_.push_back(c);
    return;
  }
  if (line_.empty() || line_.back() != '\r') {
    problem_ = "a trailer does not end with CR LF";
    return;
  }
  line_.pop_back();
  if (line_.empty()) {
    done_ = true;
    return;
  }
  keep_trailer(line_);
  line_.clear();
}

void BodyDecoder::keep_trailer(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
    problem_ = "a malformed trailer";
    return;
  }
  for (const char c : line) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) {
      problem_ = "a control byte in a trailer";
      return;
    }
  }
  const std::string_view name = line.substr(0, colon);
  if (!may_trail(name) || list_contains(withheld_, name)) return;
  trailers_.append(line).append("\r\n");
}

}  // namespace dirigent::roles
