// SPDX-License-Identifier: MIT
//
// Settings of the simulated functions, given as text: "stable_window=30s".
#pragma once

#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/model/function.h"

namespace dirigent::sim {

// Any field of ScalingSettings by its name, and concurrency_limit, queue_depth, queue_timeout, cpu. The spec is not
// validated: settings may depend on each other. Errors: invalid_argument (unknown key, with a suggestion; not a value).
Status apply_setting(RevisionSpec& spec, std::string_view text);

}  // namespace dirigent::sim
