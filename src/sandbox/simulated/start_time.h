// SPDX-License-Identifier: MIT
//
// Draws from a start-time distribution.
#pragma once

#include "dirigent/base/random.h"
#include "dirigent/sandbox/simulated_runtime.h"

namespace dirigent::sandbox {

// Never negative. REQUIRES: a SampledTime has samples.
Duration draw(const StartTime& distribution, Rng& rng);

}  // namespace dirigent::sandbox
