// SPDX-License-Identifier: MIT
#include "simulation.h"

#include <array>

namespace dirigent::consensus::test {

SimulationOptions options_of(std::uint64_t seed) {
  Rng rng(seed ^ 0xd1b4d16e);
  SimulationOptions options;
  options.seed = seed;
  options.members = std::array{1, 3, 3, 3, 5, 5}[static_cast<std::size_t>(rng.below(6))];
  options.drop = rng.below(2) == 0 ? 0 : 0.1 * rng.unit();
  options.duplicate = rng.below(2) == 0 ? 0 : 0.1 * rng.unit();
  options.reorder = rng.below(2) == 0;
  options.delay_max = std::array<Duration, 4>{100us, 1ms, 5ms, 20ms}[static_cast<std::size_t>(rng.below(4))];
  options.disk_max = std::array<Duration, 4>{200us, 2ms, 10ms, 60ms}[static_cast<std::size_t>(rng.below(4))];
  options.compact_every = std::array<Index, 4>{0, 5, 40, 200}[static_cast<std::size_t>(rng.below(4))];
  return options;
}

std::string torture(SimulationOptions options, Duration duration, Statistics* statistics) {
  SimulatedGroup simulation(options);
  const Instant end = simulation.now() + duration;
  const Duration between_faults = std::array<Duration, 3>{20ms, 150ms, 600ms}[static_cast<std::size_t>(simulation.rng().below(3))];
  while (simulation.now() < end && simulation.violation().empty()) {
    simulation.run_for(Duration(static_cast<std::int64_t>(simulation.rng().below(10'000'000))));
    if (simulation.rng().unit() * to_seconds(between_faults) < 0.005) simulation.random_fault();
    // To whoever believes that it leads: an old leader must not acknowledge anything either.
    for (std::uint32_t member = 1; member <= 9; ++member) {
      if (simulation.core(member) != nullptr && simulation.core(member)->leads() && simulation.rng().below(2) == 0) simulation.propose(member);
    }
  }
  simulation.heal();
  simulation.set_lossless();
  for (std::uint32_t member = 1; member <= 9; ++member) simulation.restart(member);
  const bool is_healed = simulation.run_until([&] { return simulation.all_agree(); }, 20s);
  const std::uint64_t before = simulation.acknowledged();
  // A leader that has just been removed may take its last proposal along, so that one is not enough.
  bool goes_on = false;
  for (int tries = 0; is_healed && !goes_on && tries < 20; ++tries) {
    if (simulation.leader() != 0) simulation.propose(simulation.leader());
    goes_on = simulation.run_until([&] { return simulation.acknowledged() > before && simulation.all_agree(); }, 1s);
  }
  if (statistics != nullptr) {
    const Statistics& more = simulation.statistics();
    statistics->steps += more.steps;
    statistics->messages += more.messages;
    statistics->proposals += more.proposals;
    statistics->acknowledged += more.acknowledged;
    statistics->elections += more.elections;
    statistics->crashes += more.crashes;
    statistics->snapshots += more.snapshots;
    statistics->faults += more.faults;
  }
  if (!simulation.violation().empty()) return simulation.violation();
  if (!is_healed) return fmt::format("seed {}: after healing, the members do not come to one history within 20 s\n{}", options.seed, simulation.describe());
  if (!goes_on) return fmt::format("seed {}: after healing, no proposal is committed within 20 s\n{}", options.seed, simulation.describe());
  return "";
}

}  // namespace dirigent::consensus::test
