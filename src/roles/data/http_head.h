// SPDX-License-Identifier: MIT
//
// Heads of HTTP/1 messages, strictly: one pass looks for the end and refuses what the RFCs leave ambiguous (bare LF or CR,
// control bytes, folded lines), llhttp in strict mode takes the clean head apart, and then our own rules about Host and
// framing apply. Everything is a view into the caller's bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dirigent::roles {

struct HeadLimits {
  std::size_t head_bytes_max = 32 * 1024;
  std::size_t headers_max = 100;
  std::size_t target_bytes_max = 8 * 1024;
};

// Looks for the end of a head, resumable: feed it the same bytes from the start of the head again, grown at the end.
class HeadScanner {
 public:
  enum class Verdict { need_more, complete, bad };
  void reset() { scanned_ = line_start_ = 0; lines_ = 0; }
  Verdict scan(std::string_view bytes);
  [[nodiscard]] std::size_t head_size() const { return scanned_; }  // including the empty line; after `complete`
  [[nodiscard]] const char* problem() const { return problem_; }    // after `bad`

 private:
  std::size_t scanned_ = 0;
  std::size_t line_start_ = 0;
  std::size_t lines_ = 0;
  const char* problem_ = "";
};

// The headers that mean something to a proxy.
enum class HeaderKind : std::uint8_t {
  other,
  host, content_length, transfer_encoding, connection, expect, upgrade, te, trailer, keep_alive,
  proxy_connection, proxy_authenticate, proxy_authorization,
  x_forwarded_for, x_forwarded_proto, x_forwarded_host, forwarded, x_real_ip,
  x_call_id, x_start_time, x_dirigent, x_duration_seconds, x_served_by, date,
  serving_tag, prefer,
  disguised,  // one of the above with "_" for "-": a function behind CGI or WSGI could not tell them apart
};
// Other X-Forwarded-* count as `forwarded`.
HeaderKind header_kind(std::string_view name);

struct HeaderField {
  std::string_view name;
  std::string_view value;  // without surrounding blanks
  HeaderKind kind = HeaderKind::other;
};

enum class Framing : std::uint8_t { none, length, chunked, until_close };

// What both kinds of heads have.
struct MessageHead {
  static constexpr std::size_t kHeadersMax = 256;  // HeadLimits::headers_max is capped to it
  std::array<HeaderField, kHeadersMax> headers;
  std::size_t header_count = 0;
  int minor_version = 1;
  Framing framing = Framing::none;
  std::uint64_t content_length = 0;  // of Framing::length
  bool has_content_length = false;   // a head without a body may still say how long it would be
  bool connection_close = false;
  bool connection_keep_alive = false;
  bool connection_upgrade = false;
  std::string_view upgrade;          // value of Upgrade
  bool te_trailers = false;

  [[nodiscard]] const HeaderField* begin() const { return headers.data(); }
  [[nodiscard]] const HeaderField* end() const { return headers.data() + header_count; }
  // The header is named by Connection, or is hop-by-hop by itself, and must not be passed on.
  [[nodiscard]] bool is_hop_by_hop(const HeaderField& field) const;
};

struct RequestHead : MessageHead {
  std::string_view method;
  std::string_view target;     // origin form (or "*"): an absolute form has been cut down
  std::string_view authority;  // value of Host; "" on HTTP/1.0 without
  std::string_view tag;        // value of Knative-Serving-Tag
  bool respond_async = false;  // Prefer: respond-async
  bool is_head = false;
  bool is_idempotent = false;
  bool expect_continue = false;
};

struct ResponseHead : MessageHead {
  int status = 0;
  std::string_view reason;
};

// `head` is what HeadScanner called complete. Returns nullptr, or what is wrong with it.
const char* parse_request_head(std::string_view head, const HeadLimits& limits, RequestHead& request);
// `answers_head`: to a HEAD request, which has no body whatever the head says.
const char* parse_response_head(std::string_view head, const HeadLimits& limits, bool answers_head, ResponseHead& response);

bool equals_ignoring_case(std::string_view a, std::string_view b);
// A comma-separated list, such as a Connection header, has this element.
bool list_contains(std::string_view list, std::string_view element);
bool is_token(std::string_view text);

}  // namespace dirigent::roles
