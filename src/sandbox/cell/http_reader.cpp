// SPDX-License-Identifier: MIT
#include "sandbox/cell/http_reader.h"

#include <strings.h>

#include <cstdlib>

namespace dirigent::sandbox::cell {

namespace {

bool same_name(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

bool has_token(std::string_view list, std::string_view token) {
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    std::string_view word = list.substr(0, comma);
    while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
    while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
    if (same_name(word, token)) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

bool parse_size(std::string_view text, int base, std::size_t& value) {
  if (text.empty() || text.size() > 15) return false;
  value = 0;
  for (const char c : text) {
    int digit = -1;
    if (c >= '0' && c <= '9') digit = c - '0';
    else if (base == 16 && c >= 'a' && c <= 'f') digit = c - 'a' + 10;
    else if (base == 16 && c >= 'A' && c <= 'F') digit = c - 'A' + 10;
    if (digit < 0) return false;
    value = value * static_cast<std::size_t>(base) + static_cast<std::size_t>(digit);
  }
  return true;
}

}  // namespace

std::string_view Request::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (same_name(key, name)) return value;
  }
  return {};
}

std::string_view Request::path() const { return std::string_view(target).substr(0, target.find('?')); }

std::string Request::query(std::string_view name, bool* present) const {
  if (present != nullptr) *present = false;
  const std::size_t mark = target.find('?');
  if (mark == std::string::npos) return {};
  std::string_view rest = std::string_view(target).substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(pair.size() < rest.size() ? pair.size() + 1 : rest.size());
    const std::size_t equals = pair.find('=');
    if (pair.substr(0, equals) != name) continue;
    if (present != nullptr) *present = true;
    return equals == std::string_view::npos ? std::string() : std::string(pair.substr(equals + 1));
  }
  return {};
}

long Request::query_number(std::string_view name, long otherwise) const {
  const std::string text = query(name);
  if (text.empty()) return otherwise;
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  return *end == '\0' ? value : otherwise;
}

RequestReader::Next RequestReader::next() {
  for (;;) {
    if (stage_ == Stage::head) {
      const Next result = read_head();
      if (result != Next::request) return result;
      if (stage_ == Stage::head) return finish();
    }
    const std::size_t there = buffer_.size() - position_;
    switch (stage_) {
      case Stage::fixed_body: {
        if (there < missing_) return Next::more;
        request_.body.assign(buffer_, position_, missing_);
        position_ += missing_;
        return finish();
      }
      case Stage::chunk_size:
      case Stage::trailer: {
        const Next result = read_chunk_size();
        if (result != Next::request) return result;
        if (stage_ == Stage::head) return finish();
        break;
      }
      case Stage::chunk_data: {
        const std::size_t part = there < missing_ ? there : missing_;
        request_.body.append(buffer_, position_, part);
        position_ += part;
        missing_ -= part;
        if (missing_ > 0) {
          buffer_.clear();
          position_ = 0;
          return Next::more;
        }
        stage_ = Stage::chunk_end;
        break;
      }
      case Stage::chunk_end: {
        if (there < 2) return Next::more;
        if (buffer_.compare(position_, 2, "\r\n") != 0) return fail(400);
        position_ += 2;
        stage_ = Stage::chunk_size;
        break;
      }
      case Stage::head:
        break;
    }
  }
}

// A whole request stands in `request_`: forget its bytes.
RequestReader::Next RequestReader::finish() {
  stage_ = Stage::head;
  buffer_.erase(0, position_);
  position_ = 0;
  searched_ = 0;
  expects_continue_ = false;
  return Next::request;
}

RequestReader::Next RequestReader::read_head() {
  // An empty line or two before a request is tolerated.
  while (buffer_.size() - position_ >= 2 && buffer_.compare(position_, 2, "\r\n") == 0) position_ += 2;
  const std::size_t from = searched_ > position_ ? searched_ : position_;
  const std::size_t end = buffer_.find("\r\n\r\n", from);
  if (end == std::string::npos) {
    if (buffer_.size() - position_ > kHeadBytesMax) return fail(431);
    searched_ = buffer_.size() > 3 ? buffer_.size() - 3 : 0;
    return Next::more;
  }
  request_ = Request{};
  const std::string_view head = std::string_view(buffer_).substr(position_, end - position_);
  if (head.size() > kHeadBytesMax) return fail(431);
  if (!parse_head(head)) return fail(400);
  position_ = end + 4;
  const std::string_view encoding = request_.header("transfer-encoding");
  const std::string_view length = request_.header("content-length");
  if (!encoding.empty()) {
    if (!same_name(encoding, "chunked") || !length.empty()) return fail(400);
    stage_ = Stage::chunk_size;
  } else if (!length.empty()) {
    if (!parse_size(length, 10, missing_)) return fail(400);
    if (missing_ > kBodyBytesMax) return fail(413);
    if (missing_ > 0) stage_ = Stage::fixed_body;
  }
  expects_continue_ = stage_ != Stage::head && same_name(request_.header("expect"), "100-continue");
  return Next::request;
}

bool RequestReader::parse_head(std::string_view head) {
  std::string_view line = head.substr(0, head.find("\r\n"));
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == 0 || last == first) return false;
  request_.method = line.substr(0, first);
  request_.target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return false;
  request_.is_http10 = version == "HTTP/1.0";
  head.remove_prefix(line.size());
  while (!head.empty()) {
    head.remove_prefix(2);
    line = head.substr(0, head.find("\r\n"));
    head.remove_prefix(line.size());
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0 || line.front() == ' ') return false;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
    while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
    request_.headers.emplace_back(line.substr(0, colon), value);
  }
  const std::string_view connection = request_.header("connection");
  request_.keep_alive = request_.is_http10 ? has_token(connection, "keep-alive") : !has_token(connection, "close");
  return true;
}

// One line of the chunked framing: a size, or a line of the trailer, which is ignored.
RequestReader::Next RequestReader::read_chunk_size() {
  const std::size_t end = buffer_.find("\r\n", position_);
  if (end == std::string::npos) return buffer_.size() - position_ > 4096 ? fail(400) : Next::more;
  std::string_view line = std::string_view(buffer_).substr(position_, end - position_);
  position_ = end + 2;
  if (stage_ == Stage::trailer) {
    if (line.empty()) stage_ = Stage::head;
    return Next::request;
  }
  line = line.substr(0, line.find(';'));
  while (!line.empty() && line.back() == ' ') line.remove_suffix(1);
  if (!parse_size(line, 16, missing_)) return fail(400);
  if (missing_ > kBodyBytesMax || request_.body.size() + missing_ > kBodyBytesMax) return fail(413);
  stage_ = missing_ == 0 ? Stage::trailer : Stage::chunk_data;
  return Next::request;
}

}  // namespace dirigent::sandbox::cell
