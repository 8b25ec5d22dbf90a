// SPDX-License-Identifier: MIT
//
// Marked places where a test may kill the process: between two steps of which a real crash could do one only.
//
//   DIRIGENT_FAULT=control.committed:3 dirigent control ...    SIGKILL when it comes there for the third time
//
// They exist in builds with the meson option fault_points only; elsewhere a mark is a check at compile time that its name
// is known, and no code. Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "dirigent/base/fault_point_config.h"

namespace dirigent::fault {

// In the order in which a change, a sandbox and a call meet them.
inline constexpr std::array kPoints{
    std::string_view("control.proposed"),        // a change is on its way to the log
    std::string_view("control.committed"),       // it is durable; no conductor knows it, nobody has been told
    std::string_view("control.before_answer"),   // a registration is durable and on all data planes, but not answered
    std::string_view("control.removed"),         // the same of a deletion
    std::string_view("control.leading"),         // a new leader, before anybody has reported
    std::string_view("control.recovering"),      // a worker has reported to a leader that waits for the others
    std::string_view("control.order_sent"),      // an order to start a sandbox is on the wire
    std::string_view("control.before_record"),   // a worker has told of a sandbox that is ready; not recorded
    std::string_view("consensus.before_write"),  // entries, terms and votes are about to go to the disk
    std::string_view("consensus.written"),       // they are there; nothing that depends on it has been said
    std::string_view("consensus.vote"),          // a vote is on the disk, but not sent
    std::string_view("consensus.append_answer"), // a follower has entries on its disk, and has not told the leader
    std::string_view("consensus.committed"),     // the leader knows that a majority has an entry, nobody else does
    std::string_view("consensus.before_snapshot"),
    std::string_view("consensus.snapshot_written"),
    std::string_view("consensus.handing_over"),  // the leader takes no more changes, the successor does not know
    std::string_view("state_log.before_sync"),
    std::string_view("state_log.after_sync"),
    std::string_view("worker.before_launch"),    // an order has come, nothing has been made
    std::string_view("worker.launched"),         // a sandbox runs that nobody knows of
    std::string_view("worker.before_ready"),     // it answers; not told
    std::string_view("worker.before_remove"),
    std::string_view("worker.removed"),          // a sandbox is gone, and everybody believes that it is there
    std::string_view("data.before_routes"),      // routes have come, no shard knows them
    std::string_view("data.before_confirm"),     // all shards know them, the control plane does not know that
    std::string_view("data.confirmed"),
    std::string_view("async.before_store"),
    std::string_view("async.stored"),            // a call is durable, its client has no 202
    std::string_view("async.accepted"),          // the 202 is handed out
    std::string_view("async.before_result"),     // a call has been run, its result is not stored
    std::string_view("async.result_stored"),
    std::string_view("call_store.before_rename"),  // a segment is whole and has no name yet
    std::string_view("call_store.renamed"),
};

inline constexpr std::size_t kNone = kPoints.size();

constexpr std::size_t index_of(std::string_view name) {
  std::size_t index = 0;
  while (index < kPoints.size() && kPoints[index] != name) ++index;
  return index;
}

// Reads DIRIGENT_FAULT ("NAME", "NAME:N", or "none"). With any of them SIGRTMIN+7 with the value INDEX * 65536 + N arms a
// point of the running process (INDEX = the number of points disarms). An error text when there is no such point, with the list; it is for whoever started the
// process: a test that is not about what it says tests nothing. Before any thread is started.
std::optional<std::string> arm_from_environment();
// Does not return when it is the one that is armed, for the time that was asked for.
void reach(std::size_t index);

}  // namespace dirigent::fault

#if DIRIGENT_HAS_FAULT_POINTS
#define DIRIGENT_REACH_FAULT_POINT(name) ::dirigent::fault::reach(::dirigent::fault::index_of(name))
#else
#define DIRIGENT_REACH_FAULT_POINT(name) static_cast<void>(0)
#endif
#define DIRIGENT_FAULT_POINT(name)                                                                          \
  do {                                                                                                      \
    static_assert(::dirigent::fault::index_of(name) != ::dirigent::fault::kNone, "an unknown fault point"); \
    DIRIGENT_REACH_FAULT_POINT(name);                                                                       \
  } while (false)
