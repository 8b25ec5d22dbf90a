// SPDX-License-Identifier: MIT
//
// The formula of the `mu` autoscaler (Mittal et al., SoCC 2021).
#pragma once

namespace dirigent::policy {

// ceil(rate / serving_rate): sustain the arrivals. ceil(queue / (serving_rate x slack)): drain the queue within the
// slack. Rates are per second and, for `serving_rate`, per sandbox. A negative queue (idle sandboxes) reduces the sum,
// not below 0. REQUIRES: serving_rate > 0 and slack_seconds > 0.
double mu_scale(double rate, double queue, double serving_rate, double slack_seconds);

}  // namespace dirigent::policy
