// SPDX-License-Identifier: MIT
//
// Changes to HTTP/1 messages that keep most of their structure: lines, tokens and numbers are moved, doubled, spelt
// differently or swapped for what is known to make trouble. A quarter of them are blind.
#pragma once

#include <string>

#include "dirigent/base/random.h"

namespace dirigent::fuzz {

void mutate_http_text(std::string& text, const std::string& other, Rng& rng);

}  // namespace dirigent::fuzz
