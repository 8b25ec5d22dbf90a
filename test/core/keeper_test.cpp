// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/core/keeper.h"

using namespace dirigent;
using namespace dirigent::core;

namespace {

StartSandbox start_order(std::uint64_t id, std::uint64_t term = 1) {
  StartSandbox order;
  order.id = SandboxId{id};
  order.term = Term{term};
  order.function = FunctionName{"hello"};
  order.revision = RevisionNumber{1};
  order.spec.image = "builtin:hello";
  order.spec.limits.start_timeout = 10s;
  return order;
}

// The states said about one sandbox, in order.
std::vector<SandboxState> said(const KeeperEffects& effects) {
  std::vector<SandboxState> states;
  for (const auto& message : effects.messages) states.push_back(std::get<SandboxChanged>(message).status.state);
  return states;
}

using States = std::vector<SandboxState>;

}  // namespace

TEST_CASE("keeper: an order is launched, probed and reported ready with its phases") {
  Keeper keeper({});
  Instant now{1s};
  KeeperEffects effects;
  keeper.ordered(start_order(1), now, effects);
  REQUIRE(effects.launches.size() == 1);
  CHECK(said(effects) == States{SandboxState::starting});

  effects = {};
  now += 2ms;
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{{"198.18.0.1:8080", "", "host"}, {{}, 1ms, 500us, 500us, {}, 0}}, now, effects);
  REQUIRE(effects.probes.size() == 1);
  CHECK(effects.probes[0].timeout == 3ms);

  effects = {};
  now += 1ms;
  keeper.probed(SandboxId{1}, false, now, effects);
  CHECK(effects.probes.empty());
  CHECK(keeper.next_wakeup() == now + 1ms);
  keeper.tick(now + 1ms, effects);
  REQUIRE(effects.probes.size() == 1);

  effects = {};
  now += 2ms;
  keeper.probed(SandboxId{1}, true, now, effects);
  REQUIRE(said(effects) == States{SandboxState::ready});
  const auto& status = std::get<SandboxChanged>(effects.messages[0]).status;
  CHECK(status.address.direct == "198.18.0.1:8080");
  CHECK(status.phases.create == 1ms);
  CHECK(status.phases.probe == 3ms);
  CHECK(status.phases.probe_tries == 2);
  CHECK_FALSE(keeper.next_wakeup());
}

TEST_CASE("keeper: probe delays grow by 1.35 from 1 ms to 100 ms") {
  Keeper keeper({});
  Instant now{1s};
  KeeperEffects effects;
  keeper.ordered(start_order(1), now, effects);
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, now, effects);
  std::vector<std::int64_t> delays;
  for (int i = 0; i < 20; ++i) {
    keeper.probed(SandboxId{1}, false, now, effects);
    const Instant next = *keeper.next_wakeup();
    delays.push_back((next - now).count());
    now = next;
    keeper.tick(now, effects);
  }
  CHECK(delays[0] == 1'000'000);
  CHECK(delays[1] == 1'350'000);
  CHECK(delays[2] == 1'822'500);
  CHECK(delays.back() == 100'000'000);
}

TEST_CASE("keeper: a sandbox that is not ready in time is removed and reported as start-timeout") {
  Keeper keeper({});
  KeeperEffects effects;
  keeper.ordered(start_order(1), Instant{1s}, effects);
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, Instant{1s}, effects);
  effects = {};
  keeper.tick(Instant{11s}, effects);
  REQUIRE(effects.removals.size() == 1);
  CHECK(effects.removals[0].grace == 0s);
  keeper.removed(SandboxId{1}, Instant{11s}, effects);
  const auto& last = std::get<SandboxChanged>(effects.messages.back()).status;
  CHECK(last.state == SandboxState::gone);
  CHECK(last.end.cause == EndCause::start_timeout);
  CHECK(keeper.size() == 0);
}

TEST_CASE("keeper: each launch error has its cause") {
  const std::pair<ErrorCode, EndCause> cases[] = {{ErrorCode::not_found, EndCause::image_missing},
                                                  {ErrorCode::exhausted, EndCause::no_capacity},
                                                  {ErrorCode::internal, EndCause::start_failed}};
  for (const auto& [code, cause] : cases) {
    Keeper keeper({});
    KeeperEffects effects;
    keeper.ordered(start_order(1), Instant{1s}, effects);
    effects = {};
    keeper.launched(SandboxId{1}, failure(code, "why"), Instant{1s}, effects);
    REQUIRE(effects.messages.size() == 1);
    const auto& status = std::get<SandboxChanged>(effects.messages[0]).status;
    CHECK(status.state == SandboxState::gone);
    CHECK(status.end.cause == cause);
    CHECK(status.end.detail == "why");
    CHECK(keeper.size() == 0);
  }
}

TEST_CASE("keeper: a process that ends is reported at once, before it is cleaned up") {
  Keeper keeper({});
  KeeperEffects effects;
  keeper.ordered(start_order(1), Instant{1s}, effects);
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, Instant{1s}, effects);
  keeper.probed(SandboxId{1}, true, Instant{1s}, effects);
  effects = {};
  SandboxEnd end;
  end.cause = EndCause::exited;
  end.exit_code = 3;
  keeper.ended(SandboxId{1}, end, Instant{2s}, effects);
  CHECK(said(effects) == States{SandboxState::gone});
  CHECK(std::get<SandboxChanged>(effects.messages[0]).status.end.exit_code == 3);
  REQUIRE(effects.removals.size() == 1);
  effects = {};
  keeper.removed(SandboxId{1}, Instant{2s}, effects);
  CHECK(effects.messages.empty());
  CHECK(keeper.size() == 0);
}

TEST_CASE("keeper: a stop during the launch removes what came to be") {
  Keeper keeper({});
  KeeperEffects effects;
  keeper.ordered(start_order(1), Instant{1s}, effects);
  keeper.ordered(StopSandbox{Term{1}, SandboxId{1}}, Instant{1s}, effects);
  CHECK(effects.removals.empty());
  effects = {};
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, Instant{1s}, effects);
  REQUIRE(effects.removals.size() == 1);
  CHECK(effects.probes.empty());
  keeper.removed(SandboxId{1}, Instant{1s}, effects);
  CHECK(std::get<SandboxChanged>(effects.messages.back()).status.end.cause == EndCause::requested);
}

TEST_CASE("keeper: orders are idempotent and those of an old term are refused") {
  Keeper keeper({});
  KeeperEffects effects;
  keeper.ordered(start_order(1, 5), Instant{1s}, effects);
  effects = {};
  keeper.ordered(start_order(1, 5), Instant{1s}, effects);
  CHECK(effects.launches.empty());
  CHECK(said(effects) == States{SandboxState::starting});
  effects = {};
  keeper.ordered(start_order(2, 4), Instant{1s}, effects);
  keeper.ordered(StopSandbox{Term{4}, SandboxId{1}}, Instant{1s}, effects);
  CHECK(effects.launches.empty());
  CHECK(effects.messages.empty());
  keeper.ordered(StopSandbox{Term{6}, SandboxId{77}}, Instant{1s}, effects);
  CHECK(said(effects) == States{SandboxState::gone});
  CHECK(keeper.term() == Term{6});
}

TEST_CASE("keeper: launches beyond the limit wait in line, sandboxes beyond it are refused") {
  KeeperOptions options;
  options.launches_max = 2;
  options.sandboxes_max = 4;
  Keeper keeper(options);
  KeeperEffects effects;
  for (std::uint64_t id = 1; id <= 5; ++id) keeper.ordered(start_order(id), Instant{1s}, effects);
  CHECK(effects.launches.size() == 2);
  const auto& refused = std::get<SandboxChanged>(effects.messages.back()).status;
  CHECK(refused.id == SandboxId{5});
  CHECK(refused.end.cause == EndCause::no_capacity);
  effects = {};
  keeper.ordered(StopSandbox{Term{1}, SandboxId{3}}, Instant{1s}, effects);
  CHECK(said(effects) == States{SandboxState::gone});
  effects = {};
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, Instant{2s}, effects);
  REQUIRE(effects.launches.size() == 1);
  CHECK(effects.launches[0].order.id == SandboxId{4});
}

TEST_CASE("keeper: stop_all ends everything with grace") {
  Keeper keeper({});
  KeeperEffects effects;
  keeper.ordered(start_order(1), Instant{1s}, effects);
  keeper.launched(SandboxId{1}, Keeper::LaunchedAt{}, Instant{1s}, effects);
  keeper.probed(SandboxId{1}, true, Instant{1s}, effects);
  effects = {};
  keeper.stop_all(Instant{2s}, effects);
  REQUIRE(effects.removals.size() == 1);
  CHECK(effects.removals[0].grace == 10s);
}
