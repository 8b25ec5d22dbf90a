// SPDX-License-Identifier: MIT
//
// The heads that the server and the client send. Framing headers are ours alone; header values cannot break lines.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/io/http.h"

namespace dirigent::io {

inline constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

std::string_view reason_phrase(int status);
// 204 and 304 have none, whatever the handler put there.
bool has_body(int status);

// With Content-Length and Connection as they have to be for this client; what `response` says about them, and headers
// that are not well-formed, are left out (the latter are logged: a bug of the handler).
std::string write_response_head(const HttpResponse& response, bool http_1_0, bool keep_alive, std::size_t body_bytes);

// invalid_argument when the method, target or a header is not well-formed.
Result<std::string> write_request_head(const HttpCall& call);

}  // namespace dirigent::io
