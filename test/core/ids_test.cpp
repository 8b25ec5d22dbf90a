// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/core/conductor.h"

using namespace dirigent;
using namespace dirigent::core;

TEST_CASE("conductor: no id is given twice, though the term before had more sandboxes than ids between two terms") {
  constexpr Term kTerm{5};
  const SandboxId living{(kTerm.value << 22) + 10};  // made in term 4, after four million others
  ConductorOptions options;
  options.term = kTerm;
  Conductor conductor(options);
  Function function;
  function.name = FunctionName{"f"};
  RevisionSpec spec;
  spec.concurrency_limit = 1;
  function.revisions.push_back({RevisionNumber{1}, spec, WallTime{}});
  function.serving = RevisionNumber{1};
  Instant now{1h};
  conductor.restore({function}, now);

  ConductorEffects effects;
  WorkerHello worker;
  worker.protocol = kProtocolVersion;
  worker.node.id = NodeId{"n"};
  worker.node.capacity = {Millicpu{64'000}, Bytes{std::int64_t{1} << 40}};
  SandboxStatus status;
  status.id = living;
  status.function = function.name;
  status.revision = RevisionNumber{1};
  status.term = Term{4};
  status.state = SandboxState::ready;
  status.address.published = "127.0.0.1:1";
  worker.sandboxes.push_back(status);
  REQUIRE(conductor.worker_joined(SessionId{1}, worker, now, effects));
  DataPlaneHello plane;
  plane.protocol = kProtocolVersion;
  plane.id = DataPlaneId{"d"};
  REQUIRE(conductor.data_plane_joined(SessionId{2}, plane, now, effects));
  effects = {};

  // More than the living one can take, until somebody starts.
  std::vector<SandboxId> started;
  for (int i = 0; i < 100 && started.size() < 12; ++i) {
    now += 200ms;
    FunctionLoad load;
    load.function = function.name;
    load.waiting = 50;
    load.in_flight = 1;
    load.average_concurrency = 51;
    load.arrivals = 50;
    load.interval = 200ms;
    conductor.data_plane_said(SessionId{2}, load, now, effects);
    conductor.tick(now, effects);
    for (const auto& [session, order] : effects.worker_orders) {
      if (const auto* start = std::get_if<StartSandbox>(&order)) started.push_back(start->id);
    }
    effects = {};
  }
  REQUIRE(started.size() >= 12);
  for (const SandboxId id : started) CHECK(id > living);
}
