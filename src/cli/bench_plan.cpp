// SPDX-License-Identifier: MIT
#include "cli/bench_plan.h"

#include <algorithm>
#include <cmath>

#include "dirigent/base/random.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

class Builder {
 public:
  explicit Builder(BenchOptions& options) : options_(options), plan_(options.plan), rng_(options.plan.seed) {}

  // `endpoints`: "HOST:PORT;HOST:PORT".
  void add(const std::string& function, const std::string& rest, std::int64_t memory_mib, std::string_view endpoints) {
    bench::Target target;
    target.function = function;
    if (options_.by_host) {
      target.authority = function;
      target.path = rest.starts_with('/') ? rest : "/" + rest;
    } else {
      target.path = "/function/" + function + rest;
    }
    target.image = options_.deploy ? options_.deploy->image : "trace";
    target.memory_mib = memory_mib;
    const auto choices = split(endpoints, ';');
    target.endpoint = endpoint(std::string(choices[rng_.below(choices.size())]));
    if (target.authority.empty()) target.authority = plan_.endpoints[target.endpoint];
    plan_.targets.push_back(std::move(target));
  }
  void add_url(const BenchTarget& url) {
    bench::Target target;
    target.function = "http://" + url.endpoint + url.rest;
    target.path = url.rest;
    target.authority = url.endpoint;
    target.endpoint = endpoint(url.endpoint);
    plan_.targets.push_back(std::move(target));
  }

 private:
  std::uint32_t endpoint(const std::string& address) {
    auto& all = plan_.endpoints;
    const auto found = std::find(all.begin(), all.end(), address);
    if (found != all.end()) return static_cast<std::uint32_t>(found - all.begin());
    all.push_back(address);
    return static_cast<std::uint32_t>(all.size() - 1);
  }

  BenchOptions& options_;
  bench::Plan& plan_;
  Rng rng_;
};

}  // namespace

std::vector<bench::NewFunction> functions_to_deploy(const BenchOptions& options, std::uint64_t seed) {
  std::vector<bench::NewFunction> functions;
  if (!options.deploy) return functions;
  Rng rng(seed);
  const auto add = [&](std::string_view base, std::size_t index, std::int64_t memory_mib) {
    functions.push_back({fmt::format("{}-{}-{}", base, index, rng.below(1'000'000'000'000)), memory_mib});
  };
  if (options.mode == BenchMode::sweep) {
    const double rate = *std::max_element(options.sweep_rates.begin(), options.sweep_rates.end());
    const auto count = static_cast<std::size_t>(std::ceil(rate * to_seconds(options.cooldown)));
    for (std::size_t i = 0; i < count; ++i) add("cold-function", i, 128);
  } else if (options.plan.workload) {
    const char* const base = options.mode == BenchMode::trace ? "trace-func" : "replay-func";
    const auto& all = options.plan.workload->functions;
    // Invitro asks for a tenth of what the trace says, because a sandbox here does not hold what the trace's did.
    for (std::size_t i = 0; i < all.size(); ++i)
      add(base, i, std::max<std::int64_t>(1, (all[i].memory.value >> 20) / 10));
  } else {
    for (const auto& target : options.targets) {
      for (std::uint32_t i = 0; i < options.functions; ++i) add(target.function, i, 128);
    }
  }
  return functions;
}

void put_targets(BenchOptions& options, const std::vector<bench::NewFunction>& functions,
                 const std::vector<std::string>& endpoints) {
  Builder builder(options);
  const std::string given = fmt::format("{}", fmt::join(options.addresses, ";"));
  if (!functions.empty()) {
    for (std::size_t i = 0; i < functions.size(); ++i) {
      const std::string rest = options.targets.empty() ? std::string() : options.targets[i / options.functions].rest;
      // What calls ask for is the trace's own; only the sandbox was asked for less.
      const auto& workload = options.plan.workload;
      const std::int64_t memory_mib = workload ? workload->functions[i].memory.value >> 20 : functions[i].memory_mib;
      builder.add(functions[i].name, rest, memory_mib, given.empty() ? endpoints[i] : given);
    }
    return;
  }
  const std::string addresses = given.empty() ? kDefaultDataPlane : given;
  if (options.plan.workload) {
    for (const auto& function : options.plan.workload->functions)
      builder.add(function.name.value, "", function.memory.value >> 20, addresses);
    return;
  }
  for (const auto& target : options.targets) {
    if (target.function.empty()) {
      builder.add_url(target);
      continue;
    }
    // Every address gets its share of the calls.
    for (const auto address : split(addresses, ';')) builder.add(target.function, target.rest, 128, address);
  }
}

workload::Workload sweep_step(double rate, Duration cooldown, Duration length, Duration run_time) {
  workload::Workload step;
  const auto functions = static_cast<std::uint32_t>(std::ceil(rate * to_seconds(cooldown)));
  for (Duration round{}; round < length; round += cooldown) {
    for (std::uint32_t i = 0; i < functions; ++i) {
      const Duration at = round + from_seconds(i / rate);
      if (at >= length) break;
      step.arrivals.push_back({at, i, run_time});
    }
  }
  std::stable_sort(step.arrivals.begin(), step.arrivals.end(),
                   [](const auto& a, const auto& b) { return a.at < b.at; });
  step.length = length;
  return step;
}

}  // namespace dirigent::cli
