// SPDX-License-Identifier: MIT
//
// What every runtime promises, asked of every runtime.
#include "containers.h"
#include "dirigent/sandbox/simulated_runtime.h"
#include "harness.h"

namespace dirigent::sandbox::test {

namespace {

std::unique_ptr<Runtime> make(const std::string& name, Harness& harness) {
  if (name == "simulated") {
    SimulatedRuntimeOptions options;
    options.host_id = "tested-host";
    return make_simulated_runtime(harness.loop, options);
  }
  if (auto container = make_container_runtime(name, harness, "contract")) return container;
  auto options = process_options("contract");
  if (name == "process without root") options.isolation = ProcessIsolation::user;
  return make_process_runtime(harness.loop, options);
}

// A function in a container listens a moment after its process runs; the worker probes until it does.
bool answers(Harness& harness, OpenRuntime& open, SandboxId id, const std::string& path) {
  const Instant end = io::Loop::now() + 10s;
  while (io::Loop::now() < end) {
    if (harness.run(open.runtime->probe(id, path, 2s)).value_or(false)) return true;
    static_cast<void>(harness.run(io::sleep_for(harness.loop, 2ms)));
  }
  return false;
}

bool can_run(const std::string& name) {
  if (name == "process" && !is_root()) {
    WARN("skipped: the process runtime at full strength needs root");
    return false;
  }
  return can_run_containers(name);
}

}  // namespace

TEST_CASE("runtime: a launched sandbox answers its probe and requests until it is removed") {
  const std::string name = GENERATE("process", "process without root", "simulated", "oci with crun", "oci with runc",
                                    "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  Harness harness;
  OpenRuntime open(harness, make(name, harness));
  auto order = order_for("builtin:hello");
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  CHECK(launched->address.host_id == "tested-host");
  CHECK(launched->phases.total() > Duration::zero());
  CHECK(answers(harness, open, order.id, ""));
  CHECK(answers(harness, open, order.id, "/ready"));
  const std::string answer =
      get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
  if (name != "simulated") CHECK(answer.ends_with("\r\n\r\nhello from tested-00001\n"));
  CHECK(harness.run(open.runtime->remove(order.id, 1s)).has_value());
  REQUIRE(open.ends.size() == 1);
  CHECK(open.ends[0].first == order.id);
  CHECK(open.ends[0].second.cause == EndCause::requested);
  CHECK_FALSE(harness.run(open.runtime->probe(order.id, "", 50ms)).value());
}

TEST_CASE("runtime: removing is idempotent, also for sandboxes that never were") {
  const std::string name = GENERATE("process", "process without root", "simulated", "oci with crun", "oci with runc",
                                    "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  Harness harness;
  OpenRuntime open(harness, make(name, harness));
  auto order = order_for("builtin:hello");
  REQUIRE(open.launch(order).has_value());
  CHECK(harness.run(open.runtime->remove(order.id, Duration::zero())).has_value());
  CHECK(harness.run(open.runtime->remove(order.id, 1s)).has_value());
  CHECK(harness.run(open.runtime->remove(SandboxId{987654321}, 1s)).has_value());
  CHECK(open.ends.size() == 1);
}

TEST_CASE("runtime: a second launch of the same sandbox is refused and leaves the first alone") {
  const std::string name = GENERATE("process", "process without root", "simulated", "oci with crun", "oci with runc",
                                    "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  Harness harness;
  OpenRuntime open(harness, make(name, harness));
  auto order = order_for("builtin:hello");
  REQUIRE(open.launch(order).has_value());
  const auto again = open.launch(order);
  REQUIRE_FALSE(again.has_value());
  CHECK(again.error().code == ErrorCode::already_exists);
  CHECK(answers(harness, open, order.id, ""));
}

TEST_CASE("runtime: close ends every sandbox and tells each end once") {
  const std::string name = GENERATE("process", "process without root", "simulated", "oci with crun", "oci with runc",
                                    "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  Harness harness;
  OpenRuntime open(harness, make(name, harness));
  for (int i = 0; i < 5; ++i) REQUIRE(open.launch(order_for("builtin:hello")).has_value());
  CHECK(harness.run(open.runtime->close()).has_value());
  CHECK(open.ends.size() == 5);
}

}  // namespace dirigent::sandbox::test
