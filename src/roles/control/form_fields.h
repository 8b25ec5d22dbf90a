// SPDX-License-Identifier: MIT
//
// The form fields of a registration and of a patch as values: checks in the original's order, with its texts. Pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/model/function.h"
#include "dirigent/roles/control_service.h"
#include "roles/control/form_api.h"

namespace dirigent::roles {

using Form = std::vector<std::pair<std::string, std::string>>;  // body first, then query; repeated names are kept

// The message of an error is the body of the answer (without its newline); the status is 400.
Result<DeployRequest> read_registration(const Form& form, const ScalingProfile& profile, const FormApiOptions& options);
// Applies the fields of POST /patch to `spec`.
Status apply_form_patch(const Form& form, RevisionSpec& spec);

// The first value of `name`; nullptr when absent.
const std::string* first_value(const Form& form, std::string_view name);

}  // namespace dirigent::roles
