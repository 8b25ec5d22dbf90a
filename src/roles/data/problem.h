// SPDX-License-Identifier: MIT
//
// The errors that the platform itself answers with: application/problem+json (RFC 9457) with the fields of docs/errors.md.
// `ran` is false when the function certainly did not run, and "maybe" otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/reason.h"

namespace dirigent::roles {

struct Problem {
  Reason reason = Reason::internal;
  std::string_view function;   // "" when none was found
  RevisionNumber revision;     // 0 = none
  std::string_view call_id;
  std::string_view detail;
  Duration retry_after{};
};

// Replaces `text` by the JSON of the problem.
void write_problem_body(const Problem& problem, std::string& text);
// Appends a JSON string; bytes beyond ASCII and control bytes are escaped one by one.
void append_json_string(std::string& text, std::string_view value);
// Whole seconds, at least 1.
std::uint64_t retry_after_seconds(Duration retry_after);
// "Bad Gateway" for 502.
std::string_view reason_phrase(int status);

}  // namespace dirigent::roles
