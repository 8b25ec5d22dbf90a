// SPDX-License-Identifier: MIT
//
// A function and its view with every field set to something that is not the default, for tests of the forms they have.
#pragma once

#include "dirigent/roles/control_service.h"
#include "fakes/full_spec.h"

namespace dirigent::fakes {

inline Function sample_function() {
  Function function;
  function.name = FunctionName{"hello.team"};
  function.created_at = WallTime(1'700'000'000'123'456us);
  Revision first{RevisionNumber{3}, {}, WallTime(1'700'000'000'000'001us)};
  first.spec.image = "builtin:hello";
  function.revisions = {first, {RevisionNumber{5}, every_field_set(), WallTime(1'700'000'001'000'000us)}};
  function.serving = RevisionNumber{3};
  function.candidate = RevisionNumber{5};
  function.manual_scale = 0;
  return function;
}

// What a function can be seen with; texts that need an escape in most places.
inline roles::FunctionView sample_view() {
  const std::string odd = "a \"quoted\" \\ back\nslash, \t and \x01, \xc3\xa9 and \xff";
  const SandboxEnd end{EndCause::out_of_memory, 137, 9, odd, "line 1\nline 2"};
  roles::FunctionView view;
  view.function = sample_function();
  for (std::uint64_t i = 1; i <= 5; ++i) {
    roles::SandboxView sandbox;
    sandbox.status.id = SandboxId{i << 40};
    sandbox.status.revision = RevisionNumber{3};
    sandbox.status.state = static_cast<SandboxState>(i - 1);
    sandbox.status.address = {i % 2 == 0 ? "198.18.0.6:8080" : "", "10.0.0.7:30005", "host"};
    sandbox.status.phases = {1us, 22ms, 333us, 4444us, 5s, 6};
    sandbox.status.age = 123'456'789us;
    sandbox.node = NodeId{"node-1"};
    sandbox.is_spare = i == 3;
    view.sandboxes.push_back(std::move(sandbox));
  }
  view.wanted = 7;
  view.waiting = 8;
  view.in_flight = 9;
  view.requests_per_second = 1.0 / 3;
  auto& scaling = view.last_scaling.emplace();
  scaling.desired = 4;
  scaling.stable_average = 0.1;
  scaling.panic_average = 1e20;
  scaling.target = 70;
  scaling.stable_wish = -0.0;
  scaling.panic_wish = 2;
  scaling.panicking = true;
  scaling.predicted = 1e-9;
  scaling.input.ready = 2;
  scaling.input.starting = 1;
  scaling.note = odd;
  view.last_placement = policy::PlacementDecision{policy::PlacementKind::kubernetes, NodeId{"node-2"}, 61.5, 12, odd};
  view.last_failure = end;
  view.invocable = true;
  view.invocable_reason = odd;
  roles::FunctionEvent event{1, WallTime(1'700'000'000'000'000us), {}, "scaled", std::nullopt, odd, std::nullopt};
  view.events.push_back(event);
  event.sequence = 2;
  event.revision = RevisionNumber{3};
  event.end = end;
  view.events.push_back(event);
  return view;
}

}  // namespace dirigent::fakes
