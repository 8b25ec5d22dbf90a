// SPDX-License-Identifier: MIT
//
// The durable part of a function as a JSON value, for those who add to it. Apart from function_json.h, so that not all
// who only want the text read the library's header.
#pragma once

#include "dirigent/model/function.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {

// What encode_function() prints.
Json function_object(const Function& function);

}  // namespace dirigent::roles
