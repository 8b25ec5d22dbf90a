// SPDX-License-Identifier: MIT
//
// One maker per kind of autoscaler.
#pragma once

#include <memory>

#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/scripted.h"

namespace dirigent::policy {

std::unique_ptr<AutoscalerFamily> make_knative_family();
std::unique_ptr<AutoscalerFamily> make_predictive_family();
std::unique_ptr<AutoscalerFamily> make_mu_family();

}  // namespace dirigent::policy
