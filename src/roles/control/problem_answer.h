// SPDX-License-Identifier: MIT
//
// How the control role's APIs say no: an RFC 9457 document, X-Dirigent-Reason, and Retry-After where trying again may help.
#pragma once

#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/io/http.h"

namespace dirigent::roles {

// `hint` is one line of help, may be empty.
io::HttpResponse problem(int status, std::string_view code, std::string_view detail, std::string_view hint = {}, bool retriable = false);
// Status and code follow from the error's code.
io::HttpResponse problem(const Error& error, std::string_view hint = {});

}  // namespace dirigent::roles
