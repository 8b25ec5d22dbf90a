// SPDX-License-Identifier: MIT
//
// The durable part of a function as members of a JSON object, for those who add to it. Apart from function_json.h, so
// that not all who only want the text see the writer.
#pragma once

#include "dirigent/model/function.h"
#include "roles/control/json_writer.h"

namespace dirigent::roles {

enum class Secrets {
  written,
  hidden,  // their names, with null for what is in them: only the state log has that
};
// Into an object that is open: the members that encode_function() prints.
void write_function(JsonWriter& json, const Function& function, Secrets secrets);

}  // namespace dirigent::roles
