// SPDX-License-Identifier: MIT
#include <sys/mman.h>
#include <unistd.h>

#include "catch.h"
#include "dirigent/io/file_descriptor.h"
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

TEST_CASE("log ring: another worker goes on with the newest lines of one that was killed") {
  io::FileDescriptor held;
  {
    LogRing killed;
    killed.append(false, "before it was shared\n", WallTime(WallTime::duration(7)));
    held = killed.share();
    REQUIRE(held.is_open());
    killed.append(true, "after\nand half a li", {});
  }
  {
    LogRing next;
    next.go_on_with(held);
    const auto lines = next.newest(10);
    REQUIRE(lines.size() == 2);
    CHECK(lines[0].text == "before it was shared");
    CHECK(lines[0].time == WallTime(WallTime::duration(7)));
    CHECK(lines[1].text == "after");
    CHECK(lines[1].is_error_stream);
    next.append(false, "the next worker's\n", {});
  }
  LogRing third;
  third.go_on_with(held);
  CHECK(third.newest(1).at(0).text == "the next worker's");
  CHECK(third.newest(10).size() == 3);
}

TEST_CASE("log journal: the oldest lines make room, however the lines and the end of the room meet") {
  io::FileDescriptor held;
  auto journal = LogJournal::make(held);
  REQUIRE(journal);
  for (int i = 0; i < 5000; ++i) {
    LogLine line;
    line.text = std::to_string(i) + std::string(static_cast<std::size_t>(i * 37 % 4000), 'x');
    (*journal)->write(line);
    if (i % 97 != 0 && i != 4999) continue;
    const auto lines = (*journal)->lines();
    REQUIRE_FALSE(lines.empty());
    int number = i;
    std::size_t bytes = 0;
    for (auto one = lines.rbegin(); one != lines.rend(); ++one, --number) {
      REQUIRE(one->text == std::to_string(number) + std::string(static_cast<std::size_t>(number * 37 % 4000), 'x'));
      bytes += one->text.size();
    }
    if (i > 100) CHECK(bytes > LogJournal::kBytes - 8192);
  }
}

TEST_CASE("log journal: what is none is refused") {
  const io::FileDescriptor empty(::memfd_create("none", MFD_CLOEXEC));
  CHECK_FALSE(LogJournal::open(empty));
  REQUIRE(::ftruncate(empty.get(), LogJournal::kBytes) == 0);
  CHECK_FALSE(LogJournal::open(empty));
}

}  // namespace dirigent::sandbox::test
