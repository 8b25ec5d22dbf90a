// SPDX-License-Identifier: MIT
#include "roles/data/body_decoder.h"

#include <algorithm>
#include <cstring>

namespace dirigent::roles {

namespace {
int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}
}  // namespace

void BodyDecoder::begin(Framing framing, std::uint64_t length) {
  framing_ = framing;
  state_ = State::size;
  digits_ = 0;
  remaining_ = framing == Framing::length ? length : 0;
  line_bytes_ = trailer_bytes_ = 0;
  problem_ = nullptr;
  line_.clear();
  trailers_.clear();
  done_ = framing == Framing::none || (framing == Framing::length && length == 0);
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
        } else if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f || ++line_bytes_ > kLineMax) {
          problem_ = "a malformed chunk extension";
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
  // What frames, routes or authenticates a message has no business after it.
  const HeaderKind kind = header_kind(line.substr(0, colon));
  if (kind != HeaderKind::other) return;
  trailers_.append(line).append("\r\n");
}

}  // namespace dirigent::roles
