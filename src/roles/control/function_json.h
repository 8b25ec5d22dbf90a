// SPDX-License-Identifier: MIT
//
// Functions and revisions as JSON: what the admin API reads and prints, and the format of the state log. One table of
// fields serves both directions, so a field cannot be printed under one name and read under another. Names carry their
// unit (timeout_ms, memory_bytes, cpu_milli); requests may use the human forms as well ("timeout": "30s").
// Pure functions, any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/model/function.h"
#include "dirigent/roles/control_service.h"

namespace dirigent::roles {

// The state log's record of a function. decode(encode(f)) == f.
std::string encode_function(const Function& function);
// Unknown fields are skipped, because a newer version may have written them; absent ones take their default. Anything
// else that is wrong is ErrorCode::corrupt and names the field.
Result<Function> decode_function(std::string_view text);

// A registration. Strict: an unknown, repeated or mistyped field is an invalid_argument that names it, and the ranges
// are those of validate(). Fields that are absent take the defaults of `profile` (or of the one the body names).
// `name` is the function's name when the request's path gives it; a different one in the body is refused.
Result<DeployRequest> decode_deploy(std::string_view body, const std::optional<FunctionName>& name,
                                    const ScalingProfile& profile);
// A change: fields that are absent keep their value in `base`, null restores the default, maps are merged key by key.
Result<RevisionSpec> decode_patch(std::string_view body, const RevisionSpec& base, const ScalingProfile& profile);
// {"scale": N} or {"scale": null}.
Result<std::optional<std::uint32_t>> decode_scale(std::string_view body);

// {"image": IMAGE, "node": NAME or null}.
struct Prefetch {
  std::string image;
  std::optional<NodeId> node;
};
Result<Prefetch> decode_prefetch(std::string_view body);

// Every name a registration may use, for completion and suggestions.
const std::vector<std::string>& spec_field_names();

}  // namespace dirigent::roles
