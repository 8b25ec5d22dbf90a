// SPDX-License-Identifier: MIT
#include "dirigent/policy/balancer.h"

#include "dirigent/base/text.h"

namespace dirigent::policy {

namespace {

const std::vector<std::string> kNames{"random", "round-robin", "least-processed", "knative", "least-loaded"};

}  // namespace

const std::vector<std::string>& balancer_names() { return kNames; }
std::string_view to_string(BalancerKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

Result<BalancerKind> parse_balancer(std::string_view word) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == word) return static_cast<BalancerKind>(i);
  }
  return failure(ErrorCode::invalid_argument,
                 "unknown load balancer \"{}\": use random, round-robin, least-processed, knative or least-loaded{}",
                 word, did_you_mean_suffix(word, kNames));
}

std::optional<std::size_t> choose(BalancerKind kind, const CandidateView& candidates, BalancerState& state, Rng& rng) {
  return choose_among(kind, candidates, state, rng);
}

}  // namespace dirigent::policy
