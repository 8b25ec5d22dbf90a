// SPDX-License-Identifier: MIT
#include <fstream>

#include "dirigent/base/histogram.h"
#include "dirigent/sandbox/simulated_runtime.h"
#include "harness.h"
#include "sandbox/simulated/start_time.h"

namespace dirigent::sandbox::test {

TEST_CASE("simulated: a lognormal start time has the p50 and p99 it was given") {
  const std::uint64_t seed = entropy_seed();
  CAPTURE(seed);
  Rng rng(seed);
  Histogram times;
  for (int i = 0; i < 100'000; ++i) times.record(draw(LognormalTime{5ms, 40ms}, rng));
  CHECK(static_cast<double>(times.quantile(0.5)) == Approx(5e6).epsilon(0.05));
  CHECK(static_cast<double>(times.quantile(0.99)) == Approx(40e6).epsilon(0.1));
}

TEST_CASE("simulated: a uniform start time stays within its bounds, and a median of 0 is at once") {
  const std::uint64_t seed = entropy_seed();
  CAPTURE(seed);
  Rng rng(seed);
  for (int i = 0; i < 1000; ++i) {
    const Duration time = draw(UniformTime{2ms, 3ms}, rng);
    CHECK(time >= 2ms);
    CHECK(time <= 3ms);
  }
  CHECK(draw(LognormalTime{0ms, 0ms}, rng) == Duration::zero());
}

TEST_CASE("simulated: start times are read from text and files, and mistakes are named") {
  CHECK(std::get<ConstantTime>(*parse_start_time("constant:5ms")).value == 5ms);
  CHECK(std::get<LognormalTime>(*parse_start_time("lognormal:5ms,40ms")).p99 == 40ms);
  TemporaryDirectory directory;
  const std::string path = directory.path + "/samples";
  std::ofstream(path) << "# milliseconds\n1.5\n20us\n";
  const auto sampled = parse_start_time("file:" + path);
  REQUIRE(sampled.has_value());
  CHECK(std::get<SampledTime>(*sampled).samples == std::vector<Duration>{1500us, 20us});
  for (const char* wrong : {"", "5ms", "constant:", "constant:-5ms", "uniform:5ms", "uniform:5ms,2ms",
                            "lognormal:0,5ms", "file:/nowhere/at/all"}) {
    CAPTURE(wrong);
    const auto parsed = parse_start_time(wrong);
    REQUIRE_FALSE(parsed.has_value());
    CHECK_FALSE(parsed.error().message.empty());
  }
}

TEST_CASE("simulated: the failure rate fails about that share of launches and leaves nothing of them") {
  Harness harness;
  SimulatedRuntimeOptions options;
  options.start_time = ConstantTime{};
  options.failure_rate = 0.5;
  options.seed = 42;
  OpenRuntime open(harness, make_simulated_runtime(harness.loop, options));
  int failed = 0;
  for (int i = 0; i < 200; ++i) {
    auto order = order_for("builtin:hello");
    if (open.launch(order)) continue;
    ++failed;
    CHECK_FALSE(harness.run(open.runtime->probe(order.id, "", 1ms)).value());
  }
  CHECK(failed > 60);
  CHECK(failed < 140);
  CHECK(open.ends.empty());
}

TEST_CASE("simulated: without a responder addresses are made up and probes succeed") {
  Harness harness;
  SimulatedRuntimeOptions options;
  options.serve = false;
  OpenRuntime open(harness, make_simulated_runtime(harness.loop, options));
  auto order = order_for("builtin:hello");
  const auto launched = open.launch(order);
  REQUIRE(launched.has_value());
  CHECK(launched->address.direct.starts_with("198.19."));
  CHECK(harness.run(open.runtime->probe(order.id, "", 1ms)).value());
}

TEST_CASE("simulated: thousands of sandboxes are held, up to the limit") {
  Harness harness;
  SimulatedRuntimeOptions options;
  options.start_time = ConstantTime{};
  options.sandboxes_max = 3000;
  OpenRuntime open(harness, make_simulated_runtime(harness.loop, options));
  for (int i = 0; i < 3000; ++i) REQUIRE(open.launch(order_for("builtin:hello")).has_value());
  const auto beyond = open.launch(order_for("builtin:hello"));
  REQUIRE_FALSE(beyond.has_value());
  CHECK(beyond.error().code == ErrorCode::exhausted);
}

}  // namespace dirigent::sandbox::test
