// SPDX-License-Identifier: MIT
#include "bench/response_reader.h"

#include <algorithm>
#include <charconv>

#include "bench/server_timing.h"
#include "dirigent/base/text.h"

namespace dirigent::bench {

namespace {

constexpr std::size_t kLineBytesMax = 8 * 1024;

bool equals_lower(std::string_view text, std::string_view lower) {
  return text.size() == lower.size() && std::equal(text.begin(), text.end(), lower.begin(), [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b;
         });
}

// Whether a comma-separated list has the word.
bool has_word(std::string_view list, std::string_view lower) {
  for (const auto part : split(list, ',')) {
    if (equals_lower(trim(part), lower)) return true;
  }
  return false;
}

}  // namespace

void ResponseReader::begin(bool to_head) {
  state_ = State::head;
  framing_ = Framing::until_close;
  chunk_ = Chunk::size;
  to_head_ = to_head;
  keeps_connection_ = true;
  has_length_ = false;
  status_ = 0;
  left_ = 0;
  body_bytes_ = 0;
  head_.clear();
  line_.clear();
  body_.clear();
  reason_.clear();
  timing_ = {};
}

std::size_t ResponseReader::feed(std::string_view bytes) {
  std::size_t used = 0;
  while (used < bytes.size() && state_ != State::done && state_ != State::failed) {
    const std::string_view rest = bytes.substr(used);
    used += state_ == State::head ? feed_head(rest) : feed_body(rest);
  }
  return used;
}

void ResponseReader::finish() {
  if (state_ == State::done) return;
  state_ = state_ == State::body && framing_ == Framing::until_close ? State::done : State::failed;
  keeps_connection_ = false;
}

std::size_t ResponseReader::feed_head(std::string_view bytes) {
  constexpr std::string_view kEnd = "\r\n\r\n";
  if (head_.empty()) {
    if (const auto end = bytes.find(kEnd); end != std::string_view::npos) {
      if (!parse_head(bytes.substr(0, end + 2))) state_ = State::failed;
      return end + kEnd.size();
    }
  }
  const std::size_t before = head_.size();
  const std::size_t room = kHeadBytesMax - before;
  head_.append(bytes.substr(0, room));
  const auto end = head_.find(kEnd, before < 3 ? 0 : before - 3);
  if (end == std::string::npos) {
    if (head_.size() >= kHeadBytesMax) state_ = State::failed;
    return std::min(room, bytes.size());
  }
  const std::string head = std::move(head_);
  head_.clear();
  if (!parse_head(std::string_view(head).substr(0, end + 2))) state_ = State::failed;
  return end + kEnd.size() - before;
}

// `head` ends with the CRLF of its last line.
bool ResponseReader::parse_head(std::string_view head) {
  if (!head.starts_with("HTTP/1.") || head.size() < 14 || head[8] != ' ') return false;
  const auto [end, error] = std::from_chars(head.data() + 9, head.data() + 12, status_);
  if (error != std::errc() || end != head.data() + 12 || status_ < 100 || (head[12] != ' ' && head[12] != '\r'))
    return false;
  keeps_connection_ = head[7] != '0';
  std::size_t at = head.find("\r\n") + 2;
  while (at < head.size()) {
    const std::size_t line_end = head.find("\r\n", at);
    const std::string_view line = head.substr(at, line_end - at);
    at = line_end + 2;
    const auto colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) return false;
    if (!parse_header(line.substr(0, colon), line.substr(colon + 1))) return false;
  }
  if (status_ < 200) {
    // A promise before the answer; 101 would end HTTP, and nobody asked for it.
    if (status_ == 101) return false;
    begin(to_head_);
    return true;
  }
  if (to_head_ || status_ == 204 || status_ == 304) framing_ = Framing::none;
  if (framing_ == Framing::until_close) keeps_connection_ = false;
  const bool is_empty = framing_ == Framing::none || (framing_ == Framing::length && left_ == 0);
  state_ = is_empty ? State::done : State::body;
  return true;
}

// The lengths of the five names that matter pick the candidate: most headers are passed over with one comparison.
bool ResponseReader::parse_header(std::string_view name, std::string_view value) {
  switch (name.size()) {
    case 10:
      if (equals_lower(name, "connection")) {
        if (has_word(value, "close")) keeps_connection_ = false;
        else if (has_word(value, "keep-alive")) keeps_connection_ = true;
      }
      return true;
    case 13:
      if (equals_lower(name, "server-timing")) read_server_timing(value, timing_);
      return true;
    case 14: {
      if (!equals_lower(name, "content-length")) return true;
      value = trim(value);
      std::uint64_t length = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), length);
      if (error != std::errc() || end != value.data() + value.size() || value.empty()) return false;
      if (framing_ == Framing::chunked || (has_length_ && length != left_)) return false;
      has_length_ = true;
      left_ = length;
      framing_ = Framing::length;
      return true;
    }
    case 17:
      if (equals_lower(name, "transfer-encoding")) {
        if (!equals_lower(trim(value), "chunked") || has_length_) return false;
        framing_ = Framing::chunked;
      } else if (equals_lower(name, "x-dirigent-reason")) {
        reason_ = trim(value);
      }
      return true;
    default: return true;
  }
}

void ResponseReader::keep_body(std::string_view bytes) {
  body_bytes_ += bytes.size();
  if (body_.size() < kBodyKept) body_.append(bytes.substr(0, kBodyKept - body_.size()));
}

std::size_t ResponseReader::feed_body(std::string_view bytes) {
  if (framing_ == Framing::chunked) return feed_chunked(bytes);
  if (framing_ == Framing::until_close) {
    keep_body(bytes);
    return bytes.size();
  }
  const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size()));
  keep_body(bytes.substr(0, size));
  left_ -= size;
  if (left_ == 0) state_ = State::done;
  return size;
}

bool ResponseReader::parse_chunk_size() {
  const std::string_view text = trim(std::string_view(line_).substr(0, line_.find(';')));
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), left_, 16);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

// One line or one piece of data at a time.
std::size_t ResponseReader::feed_chunked(std::string_view bytes) {
  if (chunk_ == Chunk::data) {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size()));
    keep_body(bytes.substr(0, size));
    left_ -= size;
    if (left_ == 0) chunk_ = Chunk::data_end;
    return size;
  }
  const auto newline = bytes.find('\n');
  const std::size_t used = newline == std::string_view::npos ? bytes.size() : newline + 1;
  line_.append(bytes.substr(0, used));
  if (line_.size() > kLineBytesMax) {
    state_ = State::failed;
    return used;
  }
  if (newline == std::string_view::npos) return used;
  if (!line_.ends_with("\r\n")) {
    state_ = State::failed;
    return used;
  }
  line_.resize(line_.size() - 2);
  switch (chunk_) {
    case Chunk::size:
      if (!parse_chunk_size()) state_ = State::failed;
      else chunk_ = left_ == 0 ? Chunk::trailer : Chunk::data;
      break;
    case Chunk::data_end:
      if (!line_.empty()) state_ = State::failed;
      chunk_ = Chunk::size;
      break;
    case Chunk::trailer:
      if (line_.empty()) state_ = State::done;
      break;
    case Chunk::data: break;
  }
  line_.clear();
  return used;
}

}  // namespace dirigent::bench
