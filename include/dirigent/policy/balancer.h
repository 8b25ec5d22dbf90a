// SPDX-License-Identifier: MIT
//
// Load balancing: which sandbox of a function gets the next request. Pure but for a small explicit state; formulas and
// their sources are in docs/policies.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/result.h"

namespace dirigent::policy {

enum class BalancerKind {
  random,           // uniform among the sandboxes with a free slot
  round_robin,      // the next one with a free slot
  least_processed,  // the fewest requests given since this sandbox appeared, corrected for its late arrival
  knative,          // by limit: 0 -> better of two by in-flight; 1..3 -> first available; > 3 -> round robin
  least_loaded,     // the fewest in flight relative to the limit
};
std::string_view to_string(BalancerKind kind);
Result<BalancerKind> parse_balancer(std::string_view word);  // unknown: an error with a suggestion
const std::vector<std::string>& balancer_names();

// What a policy may know of the candidates. The dispatcher gives a view over its slots, so nothing is copied.
class CandidateView {
 public:
  virtual ~CandidateView() = default;
  [[nodiscard]] virtual std::size_t size() const = 0;
  [[nodiscard]] virtual std::uint32_t in_use(std::size_t i) const = 0;
  [[nodiscard]] virtual std::uint32_t limit(std::size_t i) const = 0;     // 0 = none
  [[nodiscard]] virtual bool usable(std::size_t i) const = 0;             // false: never choose it
  [[nodiscard]] virtual std::uint64_t identity(std::size_t i) const = 0;  // stable while it exists

  [[nodiscard]] bool available(std::size_t i) const { return usable(i) && (limit(i) == 0 || in_use(i) < limit(i)); }
};

// What a balancer remembers of one function between two choices.
struct BalancerState {
  std::size_t next = 0;                                            // round robin: where to look first
  std::vector<std::pair<std::uint64_t, std::uint64_t>> processed;  // least processed: (identity, requests), sorted
};

// The index of an available candidate, or nullopt when none is available. Never an unavailable one.
std::optional<std::size_t> choose(BalancerKind kind, const CandidateView& candidates, BalancerState& state, Rng& rng);

// The same for a view whose type is known: when it is final, no call is virtual. Called once per request, so it
// allocates only when least_processed meets a sandbox for the first time.
template <class View>
std::optional<std::size_t> choose_among(BalancerKind kind, const View& candidates, BalancerState& state, Rng& rng);

}  // namespace dirigent::policy

#include "dirigent/policy/balancer_inline.h"
