// SPDX-License-Identifier: MIT
//
// Small things that every reader of text needs: strict numbers, sizes, durations, and "did you mean".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"

namespace dirigent {

// Decimal, optional sign, nothing else around it.
std::optional<std::int64_t> parse_integer(std::string_view text);
// A finite decimal number, nothing else around it.
std::optional<double> parse_number(std::string_view text);
// "1us", "250ms", "30s", "5m", "2h", "0". A bare number other than 0 is refused, because its unit would be a guess.
Result<Duration> parse_duration(std::string_view text);
// "64KiB", "512MiB", "2GiB", "100" (bytes).
Result<Bytes> parse_bytes(std::string_view text);
// "0.5" or "2" CPUs, or "500m".
Result<Millicpu> parse_cpu(std::string_view text);

std::vector<std::string_view> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);
std::string to_lower(std::string_view text);
// With padding, as RFC 4648 has it; nothing else is decoded.
std::string encode_base64(std::string_view bytes);
std::optional<std::string> decode_base64(std::string_view text);
// "4.0 KiB", "128 MiB".
std::string format_bytes(Bytes bytes);

// The candidate with the least edit distance to `word` when it is near enough to be a slip of the pen; nullopt otherwise.
std::optional<std::string> did_you_mean(std::string_view word, std::span<const std::string> candidates);
// " (did you mean \"x\"?)" or "".
std::string did_you_mean_suffix(std::string_view word, std::span<const std::string> candidates);

}  // namespace dirigent
