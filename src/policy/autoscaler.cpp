// SPDX-License-Identifier: MIT
#include "dirigent/policy/autoscaler.h"

#include "dirigent/base/text.h"
#include "policy/families.h"

namespace dirigent::policy {

namespace {

const std::vector<std::string> kNames{"knative", "predictive", "mu", "scripted", "default", "escargot"};

}  // namespace

const std::vector<std::string>& autoscaler_names() { return kNames; }

std::string_view to_string(AutoscalerKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

Result<AutoscalerKind> parse_autoscaler(std::string_view word) {
  if (word == "default") return AutoscalerKind::knative;
  if (word == "escargot") return AutoscalerKind::predictive;
  for (const auto kind :
       {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu, AutoscalerKind::scripted}) {
    if (word == to_string(kind)) return kind;
  }
  return failure(ErrorCode::invalid_argument,
                 "unknown autoscaler \"{}\": use knative (default), predictive (escargot), mu or scripted{}", word,
                 did_you_mean_suffix(word, kNames));
}

std::unique_ptr<AutoscalerFamily> make_autoscaler_family(AutoscalerKind kind) {
  switch (kind) {
    case AutoscalerKind::knative: return make_knative_family();
    case AutoscalerKind::predictive: return make_predictive_family();
    case AutoscalerKind::mu: return make_mu_family();
    case AutoscalerKind::scripted: break;
  }
  return make_scripted_family({});
}

}  // namespace dirigent::policy
