// SPDX-License-Identifier: MIT
#include "roles/data/problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace dirigent::roles {

namespace {

void add_field(std::string& text, std::string_view name, std::string_view value) {
  text.append(",\"").append(name).append("\":");
  append_json_string(text, value);
}

}  // namespace

// Bytes that are no valid UTF-8 come from clients; JSON must stay JSON, so everything beyond ASCII is escaped byte by byte.
void append_json_string(std::string& text, std::string_view value) {
  text.push_back('"');
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text.push_back('\\');
      text.push_back(c);
    } else if (byte < 0x20 || byte >= 0x7f) {
      fmt::format_to(std::back_inserter(text), "\\u{:04x}", byte);
    } else {
      text.push_back(c);
    }
  }
  text.push_back('"');
}

void write_problem_body(const Problem& problem, std::string& text) {
  const ReasonTraits& reason = traits(problem.reason);
  text.clear();
  fmt::format_to(std::back_inserter(text), "{{\"type\":\"https://dirigent.dev/errors/{}\"", reason.name);
  add_field(text, "title", reason.title);
  fmt::format_to(std::back_inserter(text), ",\"status\":{}", reason.http_status);
  add_field(text, "reason", reason.name);
  add_field(text, "component", "data");
  // The long form: NAME.NAMESPACE.
  const bool has_namespace = problem.function.empty() || problem.function.find('.') != std::string_view::npos;
  add_field(text, "function", has_namespace ? std::string(problem.function) : std::string(problem.function) + ".default");
  const bool has_revision = problem.revision.value != 0;
  add_field(text, "revision", has_revision ? revision_name(FunctionName{std::string(problem.function)}, problem.revision) : "");
  add_field(text, "call_id", problem.call_id);
  text.append(reason.ran == Ran::no ? ",\"ran\":false" : ",\"ran\":\"maybe\"");
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(problem.retry_after).count();
  const bool may_retry = reason.retry_after;
  fmt::format_to(std::back_inserter(text), ",\"retry_after_ms\":{}", may_retry ? std::max<std::int64_t>(milliseconds, 0) : 0);
  add_field(text, "detail", problem.detail);
  text.append("}\n");
}

std::uint64_t retry_after_seconds(Duration retry_after) {
  const std::int64_t seconds = (retry_after.count() + 999'999'999) / 1'000'000'000;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(seconds, 1));
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 413: return "Content Too Large";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Error";
  }
}

}  // namespace dirigent::roles
