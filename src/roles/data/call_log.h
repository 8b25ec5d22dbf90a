// SPDX-License-Identifier: MIT
//
// The last calls of one shard, in memory of fixed size: what `dirigent ctl trace` and `dirigent ctl top` look at. One
// record per request whose outcome is known, the oldest is overwritten. One thread: the shard's; others ask through the
// DataPlane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/reason.h"
#include "roles/data/metrics.h"
#include "roles/data/naming.h"

namespace dirigent::roles {

struct ClientPeer;
struct CallNotes;

// Plain bytes, so that writing one is a few stores: 376 bytes, of which a usual call touches the first 170.
struct CallRecord {
  static constexpr std::size_t kTextMax = kCallIdMax + 127 + 64;  // call id, NAME.NAMESPACE, node

  std::uint64_t sequence = 0;     // of the shard, from 1
  std::int64_t started_us = 0;    // since 1970
  std::uint64_t sandbox = 0;      // 0 = none had it
  std::uint64_t bytes_in = 0;     // payload of the request's body
  std::uint64_t bytes_out = 0;    // ... of the answer's
  std::uint32_t duration_us = 0;  // from the head to the last byte of the answer; at most 71 minutes
  std::uint32_t revision = 0;
  std::array<std::uint32_t, kPhases> phases_us{};
  std::uint16_t status = 0;
  std::uint8_t reason = 0;
  std::uint8_t sandboxes_tried = 0;
  bool cold = false;
  bool has_phases = false;  // the answer's head has come
  std::uint8_t call_id_size = 0;
  std::uint8_t function_size = 0;
  std::uint8_t node_size = 0;
  char text[kTextMax];

  [[nodiscard]] std::string_view call_id() const { return {text, call_id_size}; }
  [[nodiscard]] std::string_view function() const { return {text + call_id_size, function_size}; }
  [[nodiscard]] std::string_view node() const { return {text + call_id_size + function_size, node_size}; }
  void set_text(std::string_view call_id, std::string_view function, std::string_view node);
  [[nodiscard]] Reason why() const { return static_cast<Reason>(reason); }
  // The platform's doing, or the function's own 5xx.
  [[nodiscard]] bool is_error() const { return why() != Reason::none || status >= 500; }
};

// Which calls are wanted.
struct CallQuery {
  std::string call_id;   // "" = any
  std::string function;  // as in the routes, without ".default"; "" = any
  bool errors_only = false;
  bool cold_only = false;
  std::uint64_t after = 0;  // with a sequence above this, the oldest first to be taken; 0 = the newest are taken
  std::size_t limit = 100;
};

// What became of a function's calls lately.
struct RecentCalls {
  RevisionNumber revision;  // of the newest call
  std::uint64_t count = 0;
  std::uint64_t errors = 0;
  std::uint64_t cold = 0;
  std::vector<std::uint32_t> durations_us;  // in no order
};
struct RecentWindow {
  Duration span{};                                            // how far back the records go, at most what was asked for
  std::map<std::string, RecentCalls, std::less<>> functions;  // "" = requests that named none
};

class CallLog {
 public:
  explicit CallLog(std::size_t capacity);

  // The record for a call that has ended just now, with its sequence set and everything else to be written.
  CallRecord& next();
  // In the order of their ends.
  [[nodiscard]] std::vector<CallRecord> find(const CallQuery& query) const;
  // Calls that ended within `window` before `now_us` (since 1970).
  [[nodiscard]] RecentWindow recent(std::int64_t now_us, Duration window) const;
  [[nodiscard]] std::uint64_t newest() const { return sequence_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

 private:
  [[nodiscard]] const CallRecord& at(std::uint64_t sequence) const { return records_[(sequence - 1) % capacity_]; }
  [[nodiscard]] std::uint64_t oldest() const { return sequence_ > capacity_ ? sequence_ - capacity_ + 1 : 1; }

  std::size_t capacity_;
  std::unique_ptr<CallRecord[]> records_;  // pages that no call has reached cost nothing
  std::uint64_t sequence_ = 0;
};

// What an Exchange remembers of a call for the end that nothing else keeps: its lease may be gone by then.
struct CallNotes {
  const ClientPeer* peer = nullptr;  // nullptr: the request was refused before it was read
  SandboxId sandbox;
  std::string node;
  std::uint8_t sandboxes_tried = 0;
  std::uint64_t bytes_out = 0;

  void clear();
  void granted(SandboxId id, const NodeId& node_id);
};

}  // namespace dirigent::roles
