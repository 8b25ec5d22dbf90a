// SPDX-License-Identifier: MIT
//
// What two shards of a data plane say to each other when messages cross, which transcripts cannot show: there they arrive
// at once.
#include "catch.h"
#include "dirigent/core/dispatcher.h"

using namespace dirigent;
using namespace dirigent::core;

TEST_CASE("dispatcher: a slot that is granted while the removal of its function arrives is given back, and the request refused") {
  const Instant now(1s);
  // On the heap: AddressSanitizer's stack frames do not align them as they want to be.
  const auto shared = std::make_unique<FunctionShared>(FunctionName{"f"}, 1);
  FunctionShared& function = *shared;
  RoutedSandbox sandbox;
  sandbox.id = SandboxId{7};
  sandbox.slots = 1;
  const auto kept = std::make_unique<SandboxSlots>(sandbox, now);
  SandboxSlots& slots = *kept;
  Dispatcher origin({.shard = 0, .shards = 2});
  Dispatcher home({.shard = 1, .shards = 2});
  DispatcherEffects at_origin;
  DispatcherEffects at_home;
  const auto routed = [&](std::vector<SandboxSlots*> sandboxes) {
    auto made = std::make_shared<RoutedFunction>();
    made->route.function = function.name;
    made->route.limits.queue_depth = 10;
    made->shared = &function;
    made->sandboxes = std::move(sandboxes);
    return made;
  };
  RouteTableChange cold{1, {routed({})}, {}};
  origin.apply(cold, now, at_origin);
  home.apply(cold, now, at_home);
  CHECK(origin.arrive(*origin.find("f"), RequestToken{1}, now, at_origin).kind == Admission::Kind::parked);
  REQUIRE(at_origin.posted.size() == 1);
  home.receive(at_origin.posted.front().message, now, at_home);
  at_origin.clear();
  home.apply({2, {routed({&slots})}, {}}, now, at_home);
  REQUIRE(at_home.posted.size() == 1);
  REQUIRE(slots.in_use() == 1);
  const ShardMessage grant = at_home.posted.front().message;

  slots.await(0);
  origin.apply({3, {}, {&function}}, now, at_origin);
  origin.receive(grant, now, at_origin);
  REQUIRE(at_origin.refused.size() == 1);
  CHECK(at_origin.refused.front().token == RequestToken{1});
  CHECK(at_origin.refused.front().refusal.reason == Reason::not_found);
  CHECK(at_origin.granted.empty());
  CHECK(at_origin.released);  // the switchboard waits for it
  CHECK(slots.in_use() == 0);
  CHECK(function.waiting == 0);
  CHECK(origin.in_flight() == 0);
}
