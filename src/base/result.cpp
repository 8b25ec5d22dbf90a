// SPDX-License-Identifier: MIT
#include "dirigent/base/result.h"

#include <cerrno>
#include <system_error>

namespace dirigent {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid-argument";
    case ErrorCode::not_found: return "not-found";
    case ErrorCode::already_exists: return "already-exists";
    case ErrorCode::permission_denied: return "permission-denied";
    case ErrorCode::exhausted: return "exhausted";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::timed_out: return "timed-out";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::corrupt: return "corrupt";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::internal: return "internal";
  }
  return "internal";
}

// The exit codes are those of the table in docs/operations.md.
ErrorTraits traits(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return {400, 1, false};
    case ErrorCode::not_found: return {404, 3, false};
    case ErrorCode::already_exists: return {409, 1, false};
    case ErrorCode::permission_denied: return {403, 5, false};
    case ErrorCode::exhausted: return {503, 1, true};
    case ErrorCode::unavailable: return {503, 4, true};
    case ErrorCode::timed_out: return {504, 6, true};
    case ErrorCode::cancelled: return {503, 1, true};
    case ErrorCode::corrupt: return {502, 1, false};
    case ErrorCode::unsupported: return {501, 1, false};
    case ErrorCode::internal: return {500, 1, false};
  }
  return {500, 1, false};
}

Error Error::within(std::string_view what) const& { return {code, fmt::format("{}: {}", what, message)}; }

tl::unexpected<Error> errno_failure(int error_number, std::string_view what) {
  ErrorCode code = ErrorCode::internal;
  switch (error_number) {
    case EINVAL: code = ErrorCode::invalid_argument; break;
    case ENOENT: case ENOTDIR: case ESRCH: code = ErrorCode::not_found; break;
    case EEXIST: case EADDRINUSE: code = ErrorCode::already_exists; break;
    case EACCES: case EPERM: case EROFS: code = ErrorCode::permission_denied; break;
    case ENOSPC: case EDQUOT: case EMFILE: case ENFILE: case ENOMEM: case EAGAIN: code = ErrorCode::exhausted; break;
    case ECONNREFUSED: case ECONNRESET: case EPIPE: case EHOSTUNREACH: case ENETUNREACH: case EADDRNOTAVAIL:
      code = ErrorCode::unavailable;
      break;
    case ETIMEDOUT: code = ErrorCode::timed_out; break;
    case ECANCELED: code = ErrorCode::cancelled; break;
    case ENOSYS: case EOPNOTSUPP: code = ErrorCode::unsupported; break;
    default: break;
  }
  return failure(code, "{}: {}", what, std::generic_category().message(error_number));
}

}  // namespace dirigent
