// SPDX-License-Identifier: MIT
#include "roles/data/http_head.h"

#include <llhttp.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/assert.h"

namespace dirigent::roles {

namespace {

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

bool has_control_byte(std::string_view line) {
  unsigned found = 0;
  for (const char c : line) {
    const auto byte = static_cast<unsigned char>(c);
    found |= static_cast<unsigned>((byte < 0x20 && byte != '\t') || byte == 0x7f);
  }
  return found != 0;
}

std::string_view trim_blanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Takes the next element of a comma-separated list off `rest`.
std::string_view next_element(std::string_view& rest) {
  const std::size_t comma = rest.find(',');
  const std::string_view element = trim_blanks(rest.substr(0, comma));
  rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  return element;
}

struct NamedKind {
  std::string_view name;
  HeaderKind kind;
};
constexpr NamedKind kNamedKinds[] = {
    {"host", HeaderKind::host},
    {"content-length", HeaderKind::content_length},
    {"transfer-encoding", HeaderKind::transfer_encoding},
    {"connection", HeaderKind::connection},
    {"expect", HeaderKind::expect},
    {"upgrade", HeaderKind::upgrade},
    {"te", HeaderKind::te},
    {"trailer", HeaderKind::trailer},
    {"keep-alive", HeaderKind::keep_alive},
    {"proxy-connection", HeaderKind::proxy_connection},
    {"proxy-authenticate", HeaderKind::proxy_authenticate},
    {"proxy-authorization", HeaderKind::proxy_authorization},
    {"x-forwarded-for", HeaderKind::x_forwarded_for},
    {"x-forwarded-proto", HeaderKind::x_forwarded_proto},
    {"x-forwarded-host", HeaderKind::x_forwarded_host},
    {"forwarded", HeaderKind::forwarded},
    {"x-real-ip", HeaderKind::x_real_ip},
    {"x-call-id", HeaderKind::x_call_id},
    {"x-start-time", HeaderKind::x_start_time},
    {"x-duration-seconds", HeaderKind::x_duration_seconds},
    {"x-served-by", HeaderKind::x_served_by},
    {"date", HeaderKind::date},
    {"knative-serving-tag", HeaderKind::serving_tag},
    {"prefer", HeaderKind::prefer},
};

// Where llhttp's callbacks put what they find. One execute() call sees the whole head, so spans are whole.
struct Collector {
  MessageHead* head = nullptr;
  std::string_view url;
  std::string_view status_text;
  std::string_view name;
  std::string_view value;
  bool headers_done = false;
};

void extend(std::string_view& span, const char* at, std::size_t length) {
  span = span.empty() ? std::string_view(at, length)
                      : std::string_view(span.data(), static_cast<std::size_t>(at + length - span.data()));
}
Collector& collector_of(llhttp_t* parser) { return *static_cast<Collector*>(parser->data); }

const llhttp_settings_t& collecting_settings() {
  static const llhttp_settings_t settings = [] {
    llhttp_settings_t made;
    llhttp_settings_init(&made);
    made.on_url = [](llhttp_t* parser, const char* at, std::size_t length) {
      extend(collector_of(parser).url, at, length);
      return 0;
    };
    made.on_status = [](llhttp_t* parser, const char* at, std::size_t length) {
      extend(collector_of(parser).status_text, at, length);
      return 0;
    };
    made.on_header_field = [](llhttp_t* parser, const char* at, std::size_t length) {
      extend(collector_of(parser).name, at, length);
      return 0;
    };
    made.on_header_value = [](llhttp_t* parser, const char* at, std::size_t length) {
      extend(collector_of(parser).value, at, length);
      return 0;
    };
    made.on_header_value_complete = [](llhttp_t* parser) {
      Collector& collector = collector_of(parser);
      MessageHead& head = *collector.head;
      if (head.header_count == MessageHead::kHeadersMax) return -1;
      HeaderField& field = head.headers[head.header_count++];
      field.name = collector.name;
      if (field.name.empty()) return -1;  // llhttp lets it pass
      field.value = trim_blanks(collector.value);
      field.kind = header_kind(field.name);
      collector.name = collector.value = {};
      return 0;
    };
    made.on_headers_complete = [](llhttp_t* parser) {
      collector_of(parser).headers_done = true;
      return 0;
    };
    return made;
  }();
  return settings;
}

const char* run_llhttp(std::string_view bytes, llhttp_type type, const HeadLimits& limits, Collector& collector,
                       llhttp_t& parser) {
  llhttp_init(&parser, type, &collecting_settings());
  parser.data = &collector;
  const llhttp_errno_t error = llhttp_execute(&parser, bytes.data(), bytes.size());
  if (collector.head->header_count > limits.headers_max) return "too many headers";
  if (error != HPE_OK && error != HPE_PAUSED_UPGRADE) {
    return parser.reason != nullptr && *parser.reason != '\0' ? parser.reason : "malformed head";
  }
  if (!collector.headers_done) return "malformed head";
  if (parser.http_major != 1 || parser.http_minor > 1) return "the version must be HTTP/1.0 or HTTP/1.1";
  collector.head->minor_version = parser.http_minor;
  return nullptr;
}

const char* read_connection(std::string_view value, MessageHead& head) {
  for (std::string_view rest = value; !rest.empty();) {
    const std::string_view option = next_element(rest);
    if (option.empty()) continue;
    if (!is_token(option)) return "Connection is not a list of names";
    if (equals_ignoring_case(option, "close")) head.connection_close = true;
    if (equals_ignoring_case(option, "keep-alive")) head.connection_keep_alive = true;
    if (equals_ignoring_case(option, "upgrade")) head.connection_upgrade = true;
  }
  return nullptr;
}

const char* read_content_length(std::string_view value, MessageHead& head) {
  if (head.has_content_length) return "more than one Content-Length";
  if (value.empty() || value.size() > 18) return "Content-Length is not a number";
  std::uint64_t length = 0;
  for (const char c : value) {
    if (c < '0' || c > '9') return "Content-Length is not a number";
    length = length * 10 + static_cast<std::uint64_t>(c - '0');
  }
  head.has_content_length = true;
  head.content_length = length;
  return nullptr;
}

// The rules of RFC 9112 section 6 that both directions share; refuses instead of guessing.
const char* read_common_headers(MessageHead& head, std::size_t& encodings) {
  for (std::size_t i = 0; i < head.header_count; ++i) {
    const HeaderField& field = head.headers[i];
    const char* wrong = nullptr;
    switch (field.kind) {
      case HeaderKind::connection: wrong = read_connection(field.value, head); break;
      case HeaderKind::content_length: wrong = read_content_length(field.value, head); break;
      case HeaderKind::transfer_encoding:
        ++encodings;
        if (!equals_ignoring_case(field.value, "chunked")) wrong = "the only Transfer-Encoding understood is chunked";
        break;
      case HeaderKind::upgrade: head.upgrade = field.value; break;
      case HeaderKind::te:
        if (list_contains(field.value, "trailers")) head.te_trailers = true;
        break;
      default: break;
    }
    if (wrong != nullptr) return wrong;
  }
  if (head.connection_close) head.connection_keep_alive = false;  // close wins (RFC 9112 9.3)
  if (encodings > 1) return "more than one Transfer-Encoding";
  if (encodings == 1 && head.has_content_length) return "both Content-Length and Transfer-Encoding";
  if (encodings == 1 && head.minor_version == 0) return "Transfer-Encoding in an HTTP/1.0 message";
  return nullptr;
}

bool is_port(std::string_view text) {
  if (text.size() > 5) return false;
  std::uint32_t port = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    port = port * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return port <= 65535;
}

// RFC 9110 7.2: uri-host [ ":" port ]. Of registered names only what a host name can be: sub-delims separate or quote
// somewhere else.
bool is_authority(std::string_view text) {
  if (text.empty()) return true;
  std::size_t host_size = text.find(':');
  if (text.front() == '[') {
    const std::size_t bracket = text.find(']');
    if (bracket == std::string_view::npos) return false;
    host_size = bracket + 1;
    if (host_size < text.size() && text[host_size] != ':') return false;
    const std::string_view inner = text.substr(1, bracket - 1);
    return inner.find_first_not_of("0123456789abcdefABCDEF:.") == std::string_view::npos &&
           inner.find(':') != std::string_view::npos && (host_size == text.size() || is_port(text.substr(host_size + 1)));
  }
  const std::string_view host = text.substr(0, host_size);
  if (host.empty()) return false;
  constexpr std::string_view kExtra = "-._~%";
  for (const char c : host) {
    const char l = lower(c);
    if ((l < 'a' || l > 'z') && (c < '0' || c > '9') && kExtra.find(c) == std::string_view::npos) return false;
  }
  return host_size == std::string_view::npos || is_port(text.substr(host_size + 1));
}

const char* read_host(RequestHead& request) {
  std::size_t hosts = 0;
  for (const HeaderField& field : request) {
    if (field.kind == HeaderKind::serving_tag) {
      if (!request.tag.empty()) return "more than one Knative-Serving-Tag";
      request.tag = field.value;
    }
    if (field.kind == HeaderKind::prefer && list_contains(field.value, "respond-async")) request.respond_async = true;
    if (field.kind != HeaderKind::host) continue;
    ++hosts;
    request.authority = field.value;
  }
  if (hosts > 1) return "more than one Host";
  if (hosts == 0 && request.minor_version == 1) return "Host is missing";
  if (!is_authority(request.authority)) return "Host is not a host name";
  return nullptr;
}

const char* read_target(std::string_view url, const HeadLimits& limits, RequestHead& request) {
  if (url.size() > limits.target_bytes_max) return "the request target is too long";
  if (url.find('#') != std::string_view::npos) return "the request target has a fragment";
  if (url == "*") {
    if (request.method != "OPTIONS") return "the target * is for OPTIONS only";
    request.target = url;
    return nullptr;
  }
  if (!url.empty() && url.front() == '/') {
    request.target = url;
    return nullptr;
  }
  constexpr std::string_view kScheme = "http://";
  if (url.size() <= kScheme.size() || !equals_ignoring_case(url.substr(0, kScheme.size()), kScheme)) {
    return "the request target must begin with /";
  }
  url.remove_prefix(kScheme.size());
  const std::size_t slash = url.find_first_of("/?");
  if (!equals_ignoring_case(url.substr(0, slash), request.authority)) return "the request target names another host";
  request.target = slash == std::string_view::npos ? "/" : url.substr(slash);
  return request.target.front() == '/' ? nullptr : "the request target must have a path";
}

}  // namespace

HeadScanner::Verdict HeadScanner::scan(std::string_view bytes) {
  while (scanned_ < bytes.size()) {
    const void* found = std::memchr(bytes.data() + scanned_, '\n', bytes.size() - scanned_);
    if (found == nullptr) {
      scanned_ = bytes.size();
      return Verdict::need_more;
    }
    const auto newline = static_cast<std::size_t>(static_cast<const char*>(found) - bytes.data());
    scanned_ = newline + 1;
    if (newline == line_start_ || bytes[newline - 1] != '\r') {
      problem_ = "a line does not end with CR LF";
      return Verdict::bad;
    }
    const std::string_view line = bytes.substr(line_start_, newline - 1 - line_start_);
    line_start_ = scanned_;
    if (line.empty()) {
      if (lines_ > 0) return Verdict::complete;
      // An empty line before the first is what some old clients send after a body. More than that is noise.
      if (newline > 1) {
        problem_ = "empty lines before the first line";
        return Verdict::bad;
      }
      continue;
    }
    if (has_control_byte(line)) {
      problem_ = "a control byte in the head";
      return Verdict::bad;
    }
    if (line.front() == ' ' || line.front() == '\t') {
      problem_ = "a folded header line";
      return Verdict::bad;
    }
    ++lines_;
  }
  return Verdict::need_more;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

bool is_token(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    const char l = lower(c);
    if ((l >= 'a' && l <= 'z') || (c >= '0' && c <= '9')) continue;
    if (c == '\0' || std::strchr("!#$%&'*+-.^_`|~", c) == nullptr) return false;
  }
  return true;
}

bool list_contains(std::string_view list, std::string_view element) {
  for (std::string_view rest = list; !rest.empty();) {
    if (equals_ignoring_case(next_element(rest), element)) return true;
  }
  return false;
}

HeaderKind header_kind(std::string_view name) {
  for (const NamedKind& known : kNamedKinds) {
    if (known.name.size() == name.size() && known.name.front() == lower(name.front()) &&
        equals_ignoring_case(known.name, name)) {
      return known.kind;
    }
  }
  const auto begins_with = [name](std::string_view prefix) {
    return name.size() >= prefix.size() && equals_ignoring_case(name.substr(0, prefix.size()), prefix);
  };
  if (begins_with("x-dirigent-")) return HeaderKind::x_dirigent;
  if (begins_with("x-forwarded-")) return HeaderKind::forwarded;
  if (name.find('_') == std::string_view::npos) return HeaderKind::other;
  // Long enough for every name and prefix above.
  std::array<char, 24> plain;
  const std::size_t size = std::min(name.size(), plain.size());
  std::replace_copy(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(size), plain.begin(), '_', '-');
  const HeaderKind hidden = header_kind({plain.data(), size});
  const bool by_prefix = hidden == HeaderKind::x_dirigent || hidden == HeaderKind::forwarded;
  return hidden != HeaderKind::other && (size == name.size() || by_prefix) ? HeaderKind::disguised : HeaderKind::other;
}

bool MessageHead::is_hop_by_hop(const HeaderField& field) const {
  switch (field.kind) {
    case HeaderKind::connection: case HeaderKind::keep_alive: case HeaderKind::proxy_connection:
    case HeaderKind::proxy_authenticate: case HeaderKind::proxy_authorization: case HeaderKind::te:
    case HeaderKind::trailer: case HeaderKind::transfer_encoding: case HeaderKind::upgrade: case HeaderKind::disguised:
      return true;
    // Whoever lists one of these in Connection wants them gone before the function looks: not here.
    case HeaderKind::host: case HeaderKind::content_length: case HeaderKind::x_forwarded_for:
    case HeaderKind::x_forwarded_proto: case HeaderKind::x_forwarded_host: case HeaderKind::forwarded:
    case HeaderKind::x_real_ip: case HeaderKind::x_call_id: case HeaderKind::x_start_time: case HeaderKind::date:
      return false;
    default: break;
  }
  for (const HeaderField& other : *this) {
    if (other.kind == HeaderKind::connection && list_contains(other.value, field.name)) return true;
  }
  return false;
}

const char* parse_request_head(std::string_view head, const HeadLimits& limits, RequestHead& request) {
  static_cast<MessageHead&>(request).header_count = 0;
  request.framing = Framing::none;
  request.content_length = 0;
  request.has_content_length = request.connection_close = request.connection_keep_alive = false;
  request.connection_upgrade = request.te_trailers = request.expect_continue = request.respond_async = false;
  request.upgrade = request.authority = request.target = request.tag = {};

  // Names are case-sensitive in methods only, and a method is a plain word.
  while (head.starts_with("\r\n")) head.remove_prefix(2);
  request.method = head.substr(0, head.find(' '));
  if (!is_token(request.method)) return "malformed request line";
  Collector collector;
  collector.head = &request;
  llhttp_t parser;
  if (const char* wrong = run_llhttp(head, HTTP_REQUEST, limits, collector, parser)) return wrong;
  // llhttp lets more than one blank pass on either side of the target.
  const std::string_view url = collector.url;
  const auto url_at = static_cast<std::size_t>(url.data() - head.data());
  if (url_at != request.method.size() + 1 || !head.substr(url_at + url.size()).starts_with(" HTTP/")) {
    return "malformed request line";
  }
  if (request.method == "CONNECT") return "CONNECT is not served";
  request.is_head = request.method == "HEAD";
  request.is_idempotent = request.is_head || request.method == "GET" || request.method == "PUT" ||
                          request.method == "DELETE" || request.method == "OPTIONS" || request.method == "TRACE";

  if (const char* wrong = read_host(request)) return wrong;
  if (const char* wrong = read_target(url, limits, request)) return wrong;
  std::size_t encodings = 0;
  if (const char* wrong = read_common_headers(request, encodings)) return wrong;
  for (const HeaderField& field : request) {
    if (field.kind != HeaderKind::expect) continue;
    if (!equals_ignoring_case(field.value, "100-continue")) return "the only expectation understood is 100-continue";
    request.expect_continue = request.minor_version == 1;
  }
  if (encodings == 1) {
    request.framing = Framing::chunked;
  } else if (request.has_content_length && request.content_length > 0) {
    request.framing = Framing::length;
  }
  return nullptr;
}

const char* parse_response_head(std::string_view head, const HeadLimits& limits, bool answers_head,
                                ResponseHead& response) {
  static_cast<MessageHead&>(response).header_count = 0;
  response.framing = Framing::none;
  response.content_length = 0;
  response.has_content_length = response.connection_close = response.connection_keep_alive = false;
  response.connection_upgrade = response.te_trailers = false;
  response.upgrade = {};

  if (!head.starts_with("HTTP/1.")) return "malformed status line";
  Collector collector;
  collector.head = &response;
  llhttp_t parser;
  if (const char* wrong = run_llhttp(head, HTTP_RESPONSE, limits, collector, parser)) return wrong;
  response.status = parser.status_code;
  response.reason = collector.status_text;
  // llhttp takes any number of leading zeros.
  constexpr std::size_t kStatusEnd = sizeof "HTTP/1.1 200" - 1;
  const bool is_three_digits = head.size() > kStatusEnd && (head[kStatusEnd] == ' ' || head[kStatusEnd] == '\r');
  if (!is_three_digits || response.status < 100 || response.status > 999) return "the status code is not three digits";
  std::size_t encodings = 0;
  if (const char* wrong = read_common_headers(response, encodings)) return wrong;
  if (response.status == 101 && (response.upgrade.empty() || !response.connection_upgrade)) {
    return "it switches protocols without saying to which";
  }
  // RFC 9110 8.6 forbids it, and whoever sends it may send those bytes as well: they must not meet the next request.
  if (response.status == 204 && response.content_length > 0) response.connection_close = true;
  const bool bodiless = answers_head || response.status < 200 || response.status == 204 || response.status == 304;
  if (bodiless) {
    if ((response.status < 200 || response.status == 204) && encodings == 1) return "Transfer-Encoding in a bodiless response";
    response.framing = Framing::none;
  } else if (encodings == 1) {
    response.framing = Framing::chunked;
  } else if (response.has_content_length) {
    response.framing = Framing::length;
  } else {
    response.framing = Framing::until_close;
  }
  return nullptr;
}

}  // namespace dirigent::roles
