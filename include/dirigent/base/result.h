// SPDX-License-Identifier: MIT
//
// Result<T>: the value, or an expected failure (a peer, user, disk or limit said no). There are few codes, chosen by
// what the caller can do about them; one table maps each to an HTTP status, an exit code and "may be retried".
// A message says what was tried, on what, and what to do about it.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace dirigent {

enum class ErrorCode {
  invalid_argument,   // the request itself is wrong; repeating it will not help
  not_found,          // the thing named does not exist
  already_exists,     // the thing to be made exists
  permission_denied,  // the operating system or an access rule refused
  exhausted,          // a named limit is reached; may be retried later
  unavailable,        // a peer or resource cannot be reached now; may be retried
  timed_out,          // a deadline passed
  cancelled,          // we changed our mind
  corrupt,            // stored or received bytes are not what they must be
  unsupported,        // this build, kernel or peer cannot do it
  internal,           // anything else; a report is welcome
};

// The lower-case name as printed in messages and JSON, for example "not-found".
std::string_view to_string(ErrorCode code);

// What a caller over HTTP, a shell and a retry loop should see.
struct ErrorTraits {
  int http_status;
  int exit_code;  // the table of `dirigent ctl --help`
  bool retriable;
};
ErrorTraits traits(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;

  // The same error with `what` before its message: "what: message".
  [[nodiscard]] Error within(std::string_view what) const&;

  friend bool operator==(const Error&, const Error&) = default;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// Makes the failure side of a Result: `return failure(ErrorCode::not_found, "function \"{}\" not found", name);`
template <class... Args>
tl::unexpected<Error> failure(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}
inline tl::unexpected<Error> failure(Error error) { return tl::unexpected<Error>(std::move(error)); }

// The failure for `errno`-style number `error_number`, with the code chosen from it.
// `what` is what was tried and on what: "cannot open /var/lib/dirigent".
tl::unexpected<Error> errno_failure(int error_number, std::string_view what);

}  // namespace dirigent
