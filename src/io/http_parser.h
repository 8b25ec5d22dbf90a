// SPDX-License-Identifier: MIT
//
// One HTTP/1.x message after the other out of a byte stream, whole and bounded. Used by the server and the client.
//
// The head is collected first, line by line, and refused as soon as a byte is wrong that proxies and servers are known
// to disagree about (a bare CR or LF, a continuation line, a control character); only then llhttp in strict mode reads
// it. The body's framing is llhttp's. Owned by one connection.
#pragma once

#include <llhttp.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/base/units.h"
#include "dirigent/io/http.h"

namespace dirigent::io {

inline constexpr std::size_t kHeadBytesMax = 32 * 1024;
inline constexpr std::size_t kTargetBytesMax = 8 * 1024;
inline constexpr std::size_t kHeadersMax = 100;

class HttpParser {
 public:
  enum class Kind { request, response };
  enum class State { head, body, done, failed };
  struct Failure {
    int status = 400;        // what a server answers
    std::string reason;
    bool too_large = false;  // a limit, not nonsense
  };

  HttpParser(Kind kind, Bytes body_max);
  HttpParser(const HttpParser&) = delete;
  HttpParser& operator=(const HttpParser&) = delete;

  // Forgets the last message. `answers_head`: the response to HEAD, which has no body whatever its head says.
  void start_message(bool answers_head = false);
  // Takes a prefix of `data` and returns its size. Stops behind the head (so that the caller can look at it) and behind
  // the message; what follows belongs to the next one. REQUIRES: state() is head or body.
  std::size_t feed(std::string_view data);
  // The peer has closed its side: a body that lasts until then is done, anything else is incomplete and failed.
  void finish();

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool started() const { return started_; }
  [[nodiscard]] const Failure& failure() const { return failure_; }

  // Valid from State::body or State::done on.
  [[nodiscard]] int status() const { return parser_.status_code; }
  [[nodiscard]] bool is_http_1_0() const { return parser_.http_minor == 0; }
  [[nodiscard]] const Headers& headers() const { return headers_; }
  // Valid in State::done.
  [[nodiscard]] bool keep_alive() const { return keep_alive_; }
  [[nodiscard]] std::string method() const;
  Headers take_headers() { return std::move(headers_); }
  std::string take_target() { return std::move(target_); }
  std::string take_body() { return std::move(body_); }

 private:
  friend struct HttpParserCallbacks;

  std::size_t scan_head(std::string_view data);
  bool accept_head_byte(char c);
  void end_line();
  void read_head();
  void check_request_head();
  void check_framing();
  std::size_t feed_body(std::string_view data);
  int fail(int status, std::string reason, bool too_large = false);
  void fail_from_llhttp(llhttp_errno_t error);

  Kind kind_;
  std::int64_t body_max_;
  llhttp_t parser_{};
  State state_ = State::head;
  Failure failure_;

  std::string head_;
  std::size_t line_start_ = 0;
  std::size_t blank_lines_ = 0;
  bool started_ = false;
  bool head_complete_ = false;   // the scanner has seen the empty line
  bool answers_head_ = false;
  bool headers_done_ = false;    // llhttp has seen it: fields from here on are trailers
  bool complete_ = false;
  bool keep_alive_ = false;
  std::int64_t body_wire_bytes_ = 0;

  std::string target_;
  std::string field_;
  Headers headers_;
  std::string body_;
};

}  // namespace dirigent::io
