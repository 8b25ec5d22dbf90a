// SPDX-License-Identifier: MIT
//
// Strict reading and safe printing of JSON text. Private to the control role's APIs: nlohmann stays out of headers that
// other floors see.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"

namespace dirigent::roles {

using Json = nlohmann::ordered_json;

// Refuses what is not JSON (with line and column) and objects that name a field twice.
Result<Json> parse_json(std::string_view text);
// Never throws: bytes that are not UTF-8 become U+FFFD.
std::string print_json(const Json& json);
// "a string", "a number", "null": for messages.
std::string_view kind_of(const Json& json);

}  // namespace dirigent::roles
