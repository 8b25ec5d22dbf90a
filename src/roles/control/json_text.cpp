// SPDX-License-Identifier: MIT
#include "roles/control/json_text.h"

#include <set>
#include <vector>

namespace dirigent::roles {

Result<Json> parse_json(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return failure(ErrorCode::invalid_argument, "the body is empty, a JSON object is expected");
  }
  // The library keeps the last of two fields with one name, which would hide a mistake.
  std::vector<std::set<std::string>> open_objects;
  std::string repeated;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second && repeated.empty()) repeated = key;
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (!repeated.empty()) return failure(ErrorCode::invalid_argument, "field \"{}\" is there twice", repeated);
    return json;
  } catch (const nlohmann::json::exception& exception) {
    std::string_view what = exception.what();
    if (const auto end = what.find("] "); what.starts_with('[') && end != std::string_view::npos)
      what.remove_prefix(end + 2);
    return failure(ErrorCode::invalid_argument, "the body is not valid JSON: {}", what);
  }
}

std::string print_json(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string_view kind_of(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return "a boolean";
    case Json::value_t::string: return "a string";
    case Json::value_t::array: return "an array";
    case Json::value_t::object: return "an object";
    default: return "a number";
  }
}

}  // namespace dirigent::roles
