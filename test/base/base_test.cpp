// SPDX-License-Identifier: MIT
#include <cerrno>
#include <vector>

#include "catch.h"
#include "dirigent/base/histogram.h"
#include "dirigent/base/random.h"
#include "dirigent/base/result.h"
#include "dirigent/base/strong_id.h"
#include "dirigent/base/text.h"
#include "dirigent/base/time.h"

using namespace dirigent;

TEST_CASE("histogram: quantiles are within 1/64 of the truth, over the whole range") {
  Histogram histogram;
  for (std::int64_t value = 1; value <= 100'000; ++value) histogram.record(value * 1000);
  CHECK(histogram.count() == 100'000);
  CHECK(histogram.min() == 1000);
  CHECK(histogram.max() == 100'000'000);
  for (const double q : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double truth = q * 1e8;
    CHECK(std::abs(static_cast<double>(histogram.quantile(q)) - truth) <= truth / 64);
  }
  CHECK(histogram.quantile(0) <= 1000 + 1000 / 64);
  CHECK(histogram.quantile(1) == 100'000'000);
  CHECK(histogram.mean() == Approx(50'000'500.0));
}

TEST_CASE("histogram: small values are exact, negative ones count as zero, the largest one fits") {
  Histogram histogram;
  for (std::int64_t value = 0; value < 64; ++value) histogram.record(value);
  for (std::int64_t value = 0; value < 64; ++value) CHECK(histogram.count_at_most(value) == static_cast<std::uint64_t>(value + 1));
  histogram.record(-5);
  CHECK(histogram.count_at_most(0) == 2);
  histogram.record(std::numeric_limits<std::int64_t>::max());
  CHECK(histogram.quantile(1) == std::numeric_limits<std::int64_t>::max());
}

TEST_CASE("histogram: merging is the same as recording together") {
  Histogram a, b, both;
  Rng rng(7);
  for (int i = 0; i < 1000; ++i) {
    const auto value = static_cast<std::int64_t>(rng.below(1'000'000));
    (i % 2 == 0 ? a : b).record(value);
    both.record(value);
  }
  a.merge(b);
  CHECK(a.count() == both.count());
  CHECK(a.min() == both.min());
  CHECK(a.max() == both.max());
  for (const double q : {0.1, 0.5, 0.99}) CHECK(a.quantile(q) == both.quantile(q));
  a.clear();
  CHECK(a.count() == 0);
  CHECK(a.quantile(0.5) == 0);
}

TEST_CASE("random: one seed gives one sequence on every machine, and below() is even") {
  // The first values of xoshiro256** seeded by splitmix64(1), as published with the algorithm.
  Rng rng(1);
  CHECK(rng() == 0xb3f2af6d0fc710c5ULL);
  CHECK(rng() == 0x853b559647364ceaULL);
  std::vector<int> counts(10);
  for (int i = 0; i < 100'000; ++i) ++counts[rng.below(10)];
  for (const int count : counts) CHECK(std::abs(count - 10'000) < 600);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) sum += rng.exponential(3.0);
  CHECK(sum / 100'000 == Approx(3.0).epsilon(0.05));
}

TEST_CASE("text: numbers are strict") {
  CHECK(parse_integer("-12") == -12);
  CHECK(parse_integer("+7") == 7);
  for (const char* bad : {"", "+", "-", "+-1", "1 ", " 1", "1x", "9223372036854775808", "0x10", "1.0"}) CHECK_FALSE(parse_integer(bad));
  CHECK(parse_number("1.5e3") == 1500.0);
  for (const char* bad : {"", "nan", "inf", "1,5", "1e999"}) CHECK_FALSE(parse_number(bad));
}

TEST_CASE("text: durations, sizes and CPUs need a unit that is known") {
  CHECK(parse_duration("250ms") == Result<Duration>(250ms));
  CHECK(parse_duration("1.5s") == Result<Duration>(1500ms));
  CHECK(parse_duration("0") == Result<Duration>(0s));
  for (const char* bad : {"", "5", "5 s", "s", "-5s", "5min", "1e30s"}) {
    const auto parsed = parse_duration(bad);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == ErrorCode::invalid_argument);
    CHECK(parsed.error().message.find("is not a duration") != std::string::npos);
  }
  CHECK(parse_bytes("128MiB")->value == 128 << 20);
  CHECK(parse_bytes("100")->value == 100);
  CHECK_FALSE(parse_bytes("1MB2"));
  CHECK(parse_cpu("0.5")->value == 500);
  CHECK(parse_cpu("250m")->value == 250);
  CHECK_FALSE(parse_cpu("2 cpus"));
}

TEST_CASE("text: base64 is read as it is written, and nothing else is") {
  const std::pair<std::string, std::string> cases[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
                                                       {std::string("\0\xff\x10", 3), "AP8Q"}};
  for (const auto& [bytes, text] : cases) {
    CHECK(encode_base64(bytes) == text);
    CHECK(decode_base64(text) == bytes);
  }
  for (const char* wrong : {"Z", "Zg=", "Zg", "Z===", "Zh==", "Zm 9v", "Zg==Zg==", "Zm-v"}) CHECK_FALSE(decode_base64(wrong).has_value());
}

TEST_CASE("text: a slip of the pen is recognised, a different word is not") {
  const std::vector<std::string> words{"knative", "predictive", "mu", "scripted"};
  CHECK(did_you_mean("knativ", words) == "knative");
  CHECK(did_you_mean("predictve", words) == "predictive");
  CHECK_FALSE(did_you_mean("kubernetes", words));
  CHECK(did_you_mean_suffix("my", words) == " (did you mean \"mu\"?)");
  CHECK(did_you_mean_suffix("completely", words).empty());
}

TEST_CASE("time: durations are printed with three digits or one unit") {
  CHECK(format_duration(0s) == "0 ms");
  CHECK(format_duration(412us) == "412 us");
  CHECK(format_duration(8210us) == "8.21 ms");
  CHECK(format_duration(1500ms) == "1.50 s");
  CHECK(format_duration(125s) == "2m");
  CHECK(format_duration(3h) == "3h");
  CHECK(format_duration(72h) == "3d");
  CHECK(format_duration(-8210us) == "-8.21 ms");
  CHECK(from_seconds(1e30) == Duration::max());
  CHECK(from_seconds(0.25) == 250ms);
}

TEST_CASE("result: an errno becomes a code by what the caller can do about it") {
  CHECK(errno_failure(ENOENT, "cannot open x").value() == Error{ErrorCode::not_found, "cannot open x: No such file or directory"});
  CHECK(errno_failure(EACCES, "x").value().code == ErrorCode::permission_denied);
  CHECK(errno_failure(ENOSPC, "x").value().code == ErrorCode::exhausted);
  CHECK(errno_failure(ECONNREFUSED, "x").value().code == ErrorCode::unavailable);
  CHECK(Error{ErrorCode::internal, "b"}.within("a").message == "a: b");
  CHECK(traits(ErrorCode::not_found).http_status == 404);
  CHECK(traits(ErrorCode::not_found).exit_code == 3);
  CHECK(traits(ErrorCode::unavailable).retriable);
}
