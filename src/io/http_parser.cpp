// SPDX-License-Identifier: MIT
#include "http_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

namespace dirigent::io {

namespace {

// The bytes of chunk framing that a body may cost. The smallest chunk, "1\r\nx\r\n", has five for one of content; what
// is far beyond that is chunk extensions or trailers sent to keep us busy.
constexpr std::int64_t kFramingBytesFree = 64 * 1024;
constexpr std::int64_t kFramingBytesPerByte = 8;

// Empty lines that a robust server skips before a request line (some clients send one after a body).
constexpr std::size_t kBlankLinesMax = 2;

constexpr std::size_t kRequestLineRest = 64;  // the longest method, two blanks, the version

std::size_t count_headers(const Headers& headers, std::string_view name) {
  return static_cast<std::size_t>(std::count_if(headers.begin(), headers.end(),
                                                [&](const auto& header) { return to_lower(header.first) == name; }));
}

}  // namespace

struct HttpParserCallbacks {
  static HttpParser& self(llhttp_t* parser) { return *static_cast<HttpParser*>(parser->data); }

  static int on_url(llhttp_t* parser, const char* at, std::size_t size) {
    HttpParser& p = self(parser);
    if (p.target_.size() + size > kTargetBytesMax) {
      return p.fail(414, fmt::format("the request target is longer than {} bytes", kTargetBytesMax), true);
    }
    p.target_.append(at, size);
    return 0;
  }

  static int on_header_field(llhttp_t* parser, const char* at, std::size_t size) {
    HttpParser& p = self(parser);
    if (!p.headers_done_) p.field_.append(at, size);
    return 0;
  }

  static int on_header_field_complete(llhttp_t* parser) {
    HttpParser& p = self(parser);
    if (p.headers_done_) return 0;
    if (p.headers_.size() == kHeadersMax) {
      return p.fail(431, fmt::format("the message has more than {} headers", kHeadersMax), true);
    }
    p.headers_.emplace_back(std::exchange(p.field_, {}), std::string());
    return 0;
  }

  static int on_header_value(llhttp_t* parser, const char* at, std::size_t size) {
    HttpParser& p = self(parser);
    if (!p.headers_done_ && !p.headers_.empty()) p.headers_.back().second.append(at, size);
    return 0;
  }

  static int on_headers_complete(llhttp_t* parser) {
    HttpParser& p = self(parser);
    p.headers_done_ = true;
    return p.answers_head_ ? 1 : 0;
  }

  static int on_body(llhttp_t* parser, const char* at, std::size_t size) {
    HttpParser& p = self(parser);
    if (static_cast<std::int64_t>(p.body_.size() + size) > p.body_max_) {
      return p.fail(413, fmt::format("the body is longer than {} bytes", p.body_max_), true);
    }
    p.body_.append(at, size);
    return 0;
  }

  static int on_message_complete(llhttp_t* parser) {
    HttpParser& p = self(parser);
    p.complete_ = true;
    p.keep_alive_ = llhttp_should_keep_alive(parser) == 1;
    return HPE_PAUSED;
  }

  static const llhttp_settings_t& settings() {
    static const llhttp_settings_t made = [] {
      llhttp_settings_t s;
      llhttp_settings_init(&s);
      s.on_url = on_url;
      s.on_header_field = on_header_field;
      s.on_header_field_complete = on_header_field_complete;
      s.on_header_value = on_header_value;
      s.on_headers_complete = on_headers_complete;
      s.on_body = on_body;
      s.on_message_complete = on_message_complete;
      return s;
    }();
    return made;
  }
};

HttpParser::HttpParser(Kind kind, Bytes body_max) : kind_(kind), body_max_(body_max.value) { start_message(); }

void HttpParser::start_message(bool answers_head) {
  llhttp_init(&parser_, kind_ == Kind::request ? HTTP_REQUEST : HTTP_RESPONSE, &HttpParserCallbacks::settings());
  parser_.data = this;
  state_ = State::head;
  failure_ = {};
  head_.clear();
  line_start_ = 0;
  blank_lines_ = 0;
  started_ = false;
  head_complete_ = false;
  answers_head_ = answers_head;
  headers_done_ = false;
  complete_ = false;
  keep_alive_ = false;
  body_wire_bytes_ = 0;
  target_.clear();
  field_.clear();
  headers_.clear();
  // A connection that has carried one large body does not keep its memory while idle.
  body_ = std::string();
}

std::string HttpParser::method() const { return llhttp_method_name(static_cast<llhttp_method_t>(parser_.method)); }

std::size_t HttpParser::feed(std::string_view data) {
  ASSERT(state_ == State::head || state_ == State::body, "state {}", static_cast<int>(state_));
  if (data.empty()) return 0;
  started_ = true;
  if (state_ == State::body) return feed_body(data);
  const std::size_t taken = scan_head(data);
  if (head_complete_ && state_ == State::head) read_head();
  return taken;
}

std::size_t HttpParser::scan_head(std::string_view data) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    if (!accept_head_byte(data[i])) return i;
    if (head_complete_) return i + 1;
  }
  return data.size();
}

bool HttpParser::accept_head_byte(char c) {
  const char previous = head_.empty() ? '\n' : head_.back();
  const bool line_begins = head_.size() == line_start_;
  if (c == '\n') {
    if (previous != '\r') fail(400, "a line of the head ends with LF alone instead of CR LF");
  } else if (previous == '\r') {
    fail(400, "the head contains a CR without LF");
  } else if (line_begins && (c == ' ' || c == '\t')) {
    fail(400, "a header is continued on a second line (obsolete line folding)");
  } else if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\r') || c == 0x7f) {
    fail(400, fmt::format("the head contains the control character {:#04x}", static_cast<unsigned char>(c)));
  } else if (head_.size() >= kHeadBytesMax) {
    fail(431, fmt::format("the head is longer than {} bytes", kHeadBytesMax), true);
  } else if (kind_ == Kind::request && line_start_ == 0 && head_.size() > kTargetBytesMax + kRequestLineRest) {
    fail(414, fmt::format("the request target is longer than {} bytes", kTargetBytesMax), true);
  }
  if (state_ == State::failed) return false;
  head_.push_back(c);
  if (c == '\n') end_line();
  return state_ != State::failed;
}

void HttpParser::end_line() {
  const bool empty = head_.size() - line_start_ == 2;
  if (!empty) {
    line_start_ = head_.size();
  } else if (line_start_ > 0) {
    head_complete_ = true;
  } else {
    head_.clear();
    started_ = false;
    if (++blank_lines_ > kBlankLinesMax) fail(400, "empty lines instead of a message");
  }
}

void HttpParser::read_head() {
  const llhttp_errno_t error = llhttp_execute(&parser_, head_.data(), head_.size());
  head_ = std::string();
  if (state_ == State::failed) return;
  if (!headers_done_) {
    fail_from_llhttp(error);
    return;
  }
  // llhttp leaves the blanks before the end of a line in the value.
  for (auto& [name, value] : headers_) value = std::string(trim(value));
  check_framing();
  if (kind_ == Kind::request && state_ != State::failed) check_request_head();
  if (state_ == State::failed) return;
  if (!complete_ && error != HPE_OK) {
    fail_from_llhttp(error);
    return;
  }
  state_ = complete_ ? State::done : State::body;
  if (state_ == State::body && (parser_.flags & F_CONTENT_LENGTH) != 0 &&
      parser_.content_length > static_cast<std::uint64_t>(body_max_)) {
    fail(413, fmt::format("the body has {} bytes, the limit is {}", parser_.content_length, body_max_), true);
  }
}

void HttpParser::check_framing() {
  // llhttp 8 lets a line through that begins with the colon.
  const bool nameless = std::any_of(headers_.begin(), headers_.end(), [](const auto& h) { return h.first.empty(); });
  const std::size_t encodings = count_headers(headers_, "transfer-encoding");
  const std::size_t lengths = count_headers(headers_, "content-length");
  if (nameless) {
    fail(400, "a header without a name");
  } else if (parser_.http_major != 1 || parser_.http_minor > 1) {
    fail(505, fmt::format("HTTP/{}.{} is not spoken here, only 1.0 and 1.1", parser_.http_major, parser_.http_minor));
  } else if (encodings > 0 && lengths > 0) {
    fail(400, "both Content-Length and Transfer-Encoding");
  } else if (lengths > 1) {
    fail(400, "more than one Content-Length");
  } else if (encodings > 0 && parser_.http_minor == 0) {
    fail(400, "Transfer-Encoding in HTTP/1.0");
  } else if (encodings > 1 || (encodings == 1 && to_lower(*find_header(headers_, "transfer-encoding")) != "chunked")) {
    fail(501, "a Transfer-Encoding other than chunked");
  }
}

void HttpParser::check_request_head() {
  const std::size_t hosts = count_headers(headers_, "host");
  if (parser_.method == HTTP_CONNECT) {
    fail(501, "CONNECT is not offered here");
  } else if (hosts > 1 || (hosts == 0 && parser_.http_minor == 1)) {
    fail(400, "a request needs exactly one Host header");
  }
}

std::size_t HttpParser::feed_body(std::string_view data) {
  const llhttp_errno_t error = llhttp_execute(&parser_, data.data(), data.size());
  if (state_ == State::failed) return data.size();
  std::size_t taken = data.size();
  if (complete_) {
    state_ = State::done;
    if (error != HPE_OK) taken = static_cast<std::size_t>(llhttp_get_error_pos(&parser_) - data.data());
  } else if (error != HPE_OK) {
    fail_from_llhttp(error);
  }
  body_wire_bytes_ += static_cast<std::int64_t>(taken);
  const auto content = static_cast<std::int64_t>(body_.size());
  if (body_wire_bytes_ - content > kFramingBytesFree + kFramingBytesPerByte * content) {
    fail(413, "the body has more chunk framing than content", true);
  }
  return taken;
}

void HttpParser::finish() {
  if (state_ == State::body) {
    const llhttp_errno_t error = llhttp_finish(&parser_);
    if (complete_ && (error == HPE_OK || error == HPE_PAUSED)) {
      state_ = State::done;
      return;
    }
  }
  if (state_ == State::head || state_ == State::body) {
    fail(400, "the connection was closed in the middle of the message");
  }
}

int HttpParser::fail(int status, std::string reason, bool too_large) {
  if (state_ != State::failed) failure_ = {status, std::move(reason), too_large};
  state_ = State::failed;
  return -1;
}

void HttpParser::fail_from_llhttp(llhttp_errno_t error) {
  switch (error) {
    case HPE_INVALID_METHOD: fail(501, "unknown method"); return;
    case HPE_INVALID_VERSION: case HPE_PAUSED_H2_UPGRADE:
      fail(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
      return;
    default: break;
  }
  const char* reason = llhttp_get_error_reason(&parser_);
  fail(400, fmt::format("{} ({})", reason != nullptr && *reason != '\0' ? reason : "malformed message",
                        llhttp_errno_name(error)));
}

}  // namespace dirigent::io
