// SPDX-License-Identifier: MIT
//
// Reading what a role answered, for the files that make rows of it.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "dirigent/base/result.h"

namespace dirigent::cli {

using Json = nlohmann::ordered_json;

// Leaves `out` as it is when the field is missing or null.
template <class T>
void take(const Json& json, const char* name, T& out) {
  const auto found = json.find(name);
  if (found != json.end() && !found->is_null()) out = found->get<T>();
}

// Runs `read` on the parsed text; nlohmann's exceptions end here. `what` was expected.
template <class Value, class Read>
Result<Value> parsed(std::string_view body, std::string_view what, Read read) {
  try {
    Value value;
    read(Json::parse(body), value);
    return value;
  } catch (const Json::exception& error) {
    return failure(ErrorCode::corrupt, "what was answered is not {}: {}", what, error.what());
  }
}

}  // namespace dirigent::cli
