// SPDX-License-Identifier: MIT
#include "catch.h"
#include "sandbox/log_ring.h"

namespace dirigent::sandbox::test {

TEST_CASE("log ring: lines are put together from pieces, per stream") {
  LogRing ring;
  ring.append(false, "he", {});
  ring.append(true, "err", {});
  ring.append(false, "llo\nwor", {});
  ring.finish({});
  const auto lines = ring.newest(10);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].text == "hello");
  CHECK(lines[1].text == "wor");
  CHECK(lines[2].text == "err");
  CHECK(lines[2].is_error_stream);
}

TEST_CASE("log ring: a line is cut at 4 KiB and its rest is the next line") {
  LogRing ring;
  ring.append(false, std::string(10'000, 'x') + "\n", {});
  const auto lines = ring.newest(10);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].text.size() == LogRing::kLineBytesMax);
  CHECK(lines[2].text.size() == 10'000 - 2 * LogRing::kLineBytesMax);
}

TEST_CASE("log ring: the oldest lines make room, and empty ones count too") {
  LogRing ring;
  for (int i = 0; i < 100'000; ++i) ring.append(false, "\n", {});
  ring.append(false, "last\n", {});
  CHECK(ring.bytes() <= LogRing::kBytesMax);
  CHECK(ring.newest(1)[0].text == "last");
}

TEST_CASE("log ring: the tail holds the last whole lines that fit") {
  LogRing ring;
  ring.append(false, "one\ntwo\nthree\n", {});
  CHECK(ring.tail(10) == "two\nthree\n");
  CHECK(ring.tail(9) == "three\n");
  CHECK(ring.tail(3).empty());
}

}  // namespace dirigent::sandbox::test
