// SPDX-License-Identifier: MIT
#include "http_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"

namespace dirigent::io {

namespace {

// The token characters of RFC 9110 5.6.2.
bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

bool is_header_value(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
  });
}

bool is_target(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte < 0x7f;
  });
}

bool is_framing(std::string_view name) {
  const std::string lower = to_lower(name);
  return lower == "content-length" || lower == "transfer-encoding" || lower == "connection" || lower == "keep-alive";
}

}  // namespace

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 425: return "Too Early";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Status";
  }
}

bool has_body(int status) { return status != 204 && status != 304; }

std::string write_response_head(const HttpResponse& response, bool http_1_0, bool keep_alive, std::size_t body_bytes) {
  std::string out;
  auto end = std::back_inserter(out);
  fmt::format_to(end, "HTTP/1.1 {} {}\r\n", response.status, reason_phrase(response.status));
  for (const auto& [name, value] : response.headers) {
    if (is_framing(name)) continue;
    if (!is_token(name) || !is_header_value(value)) {
      log_error("http", "a response header named \"{}\" is left out: it is not well-formed", percent_encode(name));
      continue;
    }
    fmt::format_to(end, "{}: {}\r\n", name, value);
  }
  if (has_body(response.status)) fmt::format_to(end, "Content-Length: {}\r\n", body_bytes);
  // Keeping the connection is the rule in 1.1 and the exception in 1.0.
  if (!keep_alive) {
    out += "Connection: close\r\n";
  } else if (http_1_0) {
    out += "Connection: keep-alive\r\n";
  }
  out += "\r\n";
  return out;
}

Result<std::string> write_request_head(const HttpCall& call) {
  if (!is_token(call.method)) {
    return failure(ErrorCode::invalid_argument, "\"{}\" is not an HTTP method", call.method);
  }
  if (!is_target(call.target)) {
    return failure(ErrorCode::invalid_argument, "\"{}\" is not a request target (percent-encode it)", call.target);
  }
  std::string out = fmt::format("{} {} HTTP/1.1\r\n", call.method, call.target);
  auto end = std::back_inserter(out);
  if (!find_header(call.headers, "host")) {
    fmt::format_to(end, "Host: {}\r\n", call.server.starts_with("unix:") ? "localhost" : call.server);
  }
  for (const auto& [name, value] : call.headers) {
    if (is_framing(name)) continue;
    if (!is_token(name) || !is_header_value(value)) {
      return failure(ErrorCode::invalid_argument, "the header \"{}\" is not well-formed", percent_encode(name));
    }
    fmt::format_to(end, "{}: {}\r\n", name, value);
  }
  const bool usual_body = call.method == "POST" || call.method == "PUT" || call.method == "PATCH";
  if (usual_body || !call.body.empty()) fmt::format_to(end, "Content-Length: {}\r\n", call.body.size());
  out += "Connection: close\r\n\r\n";
  return out;
}

}  // namespace dirigent::io
