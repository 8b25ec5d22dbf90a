// SPDX-License-Identifier: MIT
//
// The arithmetic with which several buffering proxies share the sandboxes of a function: how many proxies it takes,
// which sandboxes are whose, and how many requests one of them may let through. Golden groups N, P and G.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace dirigent::policy {

// Two at least, so that one may be lost.
constexpr std::uint32_t kProxiesMin = 2;

// `burst` is the target burst capacity: 0 none, -1 everything goes through the proxies. REQUIRES: proxy_capacity > 0.
inline std::uint32_t proxies_needed(std::uint32_t ready, double total, double burst, double proxy_capacity) {
  if (burst == 0) return kProxiesMin;
  const double to_cover = static_cast<double>(ready) * total + std::max(burst, 0.0);
  return std::max(kProxiesMin, static_cast<std::uint32_t>(std::ceil(to_cover / proxy_capacity)));
}

// The sandboxes [begin, end) belong to this proxy alone; `remnant` more are left at the end, one each for the first
// proxies.
struct ProxyShare {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t remnant = 0;
  friend bool operator==(const ProxyShare&, const ProxyShare&) = default;
};
// With fewer sandboxes than proxies several proxies share one. REQUIRES: sandboxes > 0, index < proxies.
inline ProxyShare proxy_share(std::size_t sandboxes, std::size_t index, std::size_t proxies) {
  if (sandboxes < proxies) return {index % sandboxes, index % sandboxes + 1, 0};
  const std::size_t each = sandboxes / proxies;
  return {index * each, (index + 1) * each, sandboxes % proxies};
}

// The sandboxes of this proxy. A negative index (not in the list of proxies yet) gets all of them.
template <class T>
std::vector<T> proxy_slice(std::span<const T> sandboxes, int index, std::size_t proxies) {
  if (sandboxes.empty() || index < 0 || proxies <= 1) return {sandboxes.begin(), sandboxes.end()};
  const auto own = static_cast<std::size_t>(index);
  const ProxyShare share = proxy_share(sandboxes.size(), own, proxies);
  std::vector<T> mine(sandboxes.begin() + static_cast<std::ptrdiff_t>(share.begin),
                      sandboxes.begin() + static_cast<std::ptrdiff_t>(share.end));
  if (own < share.remnant) mine.push_back(sandboxes[sandboxes.size() - share.remnant + own]);
  return mine;
}

// How many requests this proxy may let through at a time. With `tracked` sandboxes it is the limit times its own share
// of them; without, the limit times the ready ones split over the proxies, one at least. No limit: 0 = shut, 1 = open.
inline std::uint32_t breaker_capacity(std::uint32_t limit, std::int64_t ready, std::size_t proxies, int index,
                                      std::size_t tracked) {
  if (tracked > 0) {
    const std::size_t own = index < 0 ? 0 : static_cast<std::size_t>(index);
    const ProxyShare share = proxy_share(tracked, own, std::max<std::size_t>(proxies, 1));
    const std::size_t mine = share.end - share.begin + static_cast<std::size_t>(own < share.remnant);
    return limit == 0 ? 1 : limit * static_cast<std::uint32_t>(mine);
  }
  if (ready <= 0) return 0;
  if (limit == 0) return 1;
  const auto whole = static_cast<std::uint64_t>(limit) * static_cast<std::uint64_t>(ready);
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(1, whole / std::max<std::size_t>(proxies, 1)));
}

}  // namespace dirigent::policy
