// SPDX-License-Identifier: MIT
#include "dirigent/base/time.h"

#include <fmt/core.h>

#include <cmath>
#include <limits>

namespace dirigent {

Duration from_seconds(double seconds) {
  const double nanoseconds = seconds * 1e9;
  if (nanoseconds >= 9.2e18) return Duration::max();
  if (nanoseconds <= -9.2e18) return Duration::min();
  return Duration(std::llround(nanoseconds));
}

namespace {
std::string three_digits(double value, const char* unit) {
  const int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, unit);
}
}  // namespace

std::string format_duration(Duration d) {
  if (d.count() < 0) return "-" + format_duration(-d);
  const double s = to_seconds(d);
  if (d == Duration::zero()) return "0 ms";
  if (s < 1e-3) return three_digits(s * 1e6, "us");
  if (s < 1) return three_digits(s * 1e3, "ms");
  if (s < 60) return three_digits(s, "s");
  if (s < 3600) return fmt::format("{}m", static_cast<long>(s / 60));
  if (s < 48 * 3600) return fmt::format("{}h", static_cast<long>(s / 3600));
  return fmt::format("{}d", static_cast<long>(s / 86400));
}

}  // namespace dirigent
