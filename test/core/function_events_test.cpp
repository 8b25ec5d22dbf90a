// SPDX-License-Identifier: MIT
#include "dirigent/core/function_events.h"

#include "catch.h"

namespace dirigent::core {
namespace {

FunctionEvent event_of(std::uint64_t sequence) {
  FunctionEvent event;
  event.sequence = sequence;
  event.when = Instant(Duration(static_cast<std::int64_t>(sequence) * 1'000'000'007));
  event.kind = "scaled";
  event.text = std::string(sequence % 90, 'x');
  if (sequence % 2 == 0) event.revision = RevisionNumber{static_cast<std::uint32_t>(sequence)};
  if (sequence % 3 == 0) event.end = SandboxEnd{EndCause::out_of_memory, 137, 9, "killed", std::string("line 1\nline\0 2", 13)};
  return event;
}

bool same(const FunctionEvent& a, const FunctionEvent& b) {
  return a.sequence == b.sequence && a.when == b.when && a.kind == b.kind && a.text == b.text && a.revision == b.revision && a.end == b.end;
}

TEST_CASE("events: what is read is what was added, field by field, oldest first") {
  FunctionEvents events;
  CHECK(events.begin() == events.end());
  for (std::uint64_t i = 0; i < 30; ++i) events.add(event_of(i));
  CHECK(events.size() == 30);
  std::uint64_t next = 0;
  for (const FunctionEvent& event : events) {
    INFO("event " << next);
    CHECK(same(event, event_of(next)));
    ++next;
  }
  CHECK(next == 30);
}

TEST_CASE("events: the oldest are forgotten, however long they are") {
  FunctionEvents events;
  FunctionEvent large = event_of(3);
  large.end->last_output = std::string(100'000, 'o');
  for (std::uint64_t i = 0; i < 4 * FunctionEvents::kKept; ++i) {
    large.sequence = i;
    events.add(i % 7 == 0 ? large : event_of(i));
  }
  CHECK(events.size() == FunctionEvents::kKept);
  std::uint64_t next = 3 * FunctionEvents::kKept;
  for (const FunctionEvent& event : events) {
    CHECK(event.sequence == next);
    if (next % 7 == 0) CHECK(event.end->last_output.size() == 100'000);
    ++next;
  }
  CHECK(next == 4 * FunctionEvents::kKept);
}

TEST_CASE("events: an event with nothing in it survives") {
  FunctionEvents events;
  events.add({});
  CHECK(same(*events.begin(), FunctionEvent{}));
  CHECK(++events.begin() == events.end());
}

}  // namespace
}  // namespace dirigent::core
