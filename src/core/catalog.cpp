// SPDX-License-Identifier: MIT
#include "dirigent/core/catalog.h"

#include <algorithm>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

namespace dirigent::core {

const FunctionName& function_of(const CatalogCommand& command) {
  if (const auto* put = std::get_if<PutFunction>(&command)) return put->function.name;
  return std::get<DropFunction>(command).name;
}

const Function* Catalog::find(const FunctionName& name) const {
  const auto found = index_.find(name.value);
  return found == index_.end() ? nullptr : found->second;
}

Error Catalog::unknown(const FunctionName& name) const {
  std::vector<std::string> names;
  for (const auto& [known, function] : functions_) names.push_back(known.value);
  return {ErrorCode::not_found, fmt::format("function \"{}\" not found{}", name, did_you_mean_suffix(name.value, names))};
}

namespace {
// The newest ten stay, and whatever serves or is being verified.
void forget_old_revisions(Function& function) {
  while (function.revisions.size() > Catalog::kRevisionsKept) {
    const auto oldest = std::find_if(function.revisions.begin(), function.revisions.end(), [&](const Revision& revision) {
      return revision.number != function.serving && revision.number != function.candidate;
    });
    if (oldest == function.revisions.end()) return;
    function.revisions.erase(oldest);
  }
}
}  // namespace

Result<Catalog::DeployPlan> Catalog::plan_deploy(const FunctionName& name, const RevisionSpec& spec, bool create_only,
                                                 bool verify, WallTime now) const {
  if (auto status = validate(spec); !status) return failure(status.error());
  Function function;
  if (const Function* existing = find(name)) {
    if (create_only) return failure(ErrorCode::already_exists, "function \"{}\" exists already (deploy without create-only to update it)", name);
    function = *existing;
    const Revision& newest = function.revisions.back();
    if (newest.spec == spec && (function.serving == newest.number || function.candidate == newest.number)) {
      return DeployPlan{PutFunction{function, false}, newest.number, false};
    }
  } else {
    if (functions_.size() >= kFunctionsMax) {
      return failure(ErrorCode::exhausted, "there are {} functions, the most that one cluster keeps (delete some)", functions_.size());
    }
    function.name = name;
    function.created_at = now;
  }
  const RevisionNumber number{function.revisions.empty() ? 1 : function.revisions.back().number.value + 1};
  function.revisions.push_back({number, spec, now});
  if (verify) {
    function.candidate = number;
  } else {
    function.serving = number;
    function.candidate.reset();
  }
  forget_old_revisions(function);
  return DeployPlan{PutFunction{std::move(function), false}, number, true};
}

Result<CatalogCommand> Catalog::plan_remove(const FunctionName& name) const {
  if (find(name) == nullptr) return failure(unknown(name));
  return DropFunction{name};
}

Result<CatalogCommand> Catalog::plan_scale(const FunctionName& name, std::optional<std::uint32_t> scale) const {
  const Function* existing = find(name);
  if (existing == nullptr) return failure(unknown(name));
  if (scale && *scale > 100'000) return failure(ErrorCode::invalid_argument, "scale is {}, it must be in 0..100000", *scale);
  Function function = *existing;
  const bool to_zero = scale == 0u;
  function.manual_scale = to_zero ? std::nullopt : scale;
  return PutFunction{std::move(function), to_zero};
}

std::optional<CatalogCommand> Catalog::plan_promote(const FunctionName& name, RevisionNumber revision) const {
  const Function* existing = find(name);
  if (existing == nullptr || existing->candidate != revision) return std::nullopt;
  Function function = *existing;
  function.serving = revision;
  function.candidate.reset();
  forget_old_revisions(function);
  return PutFunction{std::move(function), false};
}

std::optional<CatalogCommand> Catalog::plan_reject(const FunctionName& name, RevisionNumber revision) const {
  const Function* existing = find(name);
  if (existing == nullptr || existing->candidate != revision) return std::nullopt;
  Function function = *existing;
  function.candidate.reset();
  return PutFunction{std::move(function), false};
}

bool Catalog::begin(const FunctionName& name) { return claimed_.insert(name).second; }

void Catalog::abort(const FunctionName& name) { claimed_.erase(name); }

void Catalog::apply(const CatalogCommand& command) {
  claimed_.erase(function_of(command));
  if (const auto* put = std::get_if<PutFunction>(&command)) {
    ASSERT(!put->function.revisions.empty(), "function {}", put->function.name);
    const auto place = functions_.insert_or_assign(put->function.name, put->function).first;
    index_[place->first.value] = &place->second;
  } else {
    index_.erase(std::get<DropFunction>(command).name.value);
    functions_.erase(std::get<DropFunction>(command).name);
  }
}

NodeUse Catalog::use_of(const NodeId& node) const {
  const auto found = node_uses_.find(node);
  return found == node_uses_.end() ? NodeUse::open : found->second;
}

void Catalog::apply(const SetNodeUse& command) {
  if (command.use == NodeUse::open) {
    node_uses_.erase(command.node);
  } else {
    node_uses_[command.node] = command.use;
  }
}

}  // namespace dirigent::core
