// SPDX-License-Identifier: MIT
//
// Where asynchronous calls are kept: per call a request, a state and a result, opaque bytes all three. One directory is
// one store, used by one process at a time; docs/storage.md has its files and what they promise.
//
// `log` keeps them in an append-only log of segments behind one writer thread: whatever waits becomes one write with one
// sync (group commit). `memory` keeps them as long as the process lives. Tests have further ones, which fail on demand.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/model/call_id.h"

namespace dirigent::store {

enum class CallPart : std::uint8_t { request, state, result };
inline constexpr std::size_t kCallParts = 3;
constexpr std::uint8_t mask_of(CallPart part) { return static_cast<std::uint8_t>(1U << static_cast<unsigned>(part)); }

// One atomic change of one call.
struct CallWrite {
  CallId id;
  std::array<std::optional<std::string>, kCallParts> parts;  // what is set replaces what was there
  std::uint8_t drops = 0;   // masks of parts that are not needed any more
  bool erases = false;      // the call is forgotten altogether
  bool may_wait = false;    // for others to share its sync with, a millisecond or two: nobody is waiting for the answer
  bool is_new = false;      // refused when it would take the room that is kept for the ends of other calls

  std::optional<std::string>& operator[](CallPart part) { return parts[static_cast<std::size_t>(part)]; }
};

// A call as it was found when the store was opened.
struct FoundCall {
  CallId id;
  std::string_view state;      // valid until found() is called again or the store is closed
  bool has_request = false;
  bool has_result = false;
};

// What opening a store has found to be wrong with its files. Bytes that a crash cut off at the very end are torn, which
// nobody was told of; everything else is damage.
struct StoreDamage {
  std::uint64_t torn_bytes = 0;
  std::uint64_t damaged_bytes = 0;
  std::vector<std::string> findings;  // one line each, at most 20
};

struct CallStoreFigures {
  std::uint64_t calls = 0;
  std::uint64_t disk_bytes = 0;       // files, or memory
  std::uint64_t live_bytes = 0;       // of them what is needed
  std::uint64_t groups = 0;           // synced writes so far
  std::uint64_t writes = 0;           // changes in them
  std::uint64_t failed = 0;           // changes refused or failed
  std::uint64_t queued = 0;           // changes that wait
  std::uint64_t moved_bytes = 0;      // by cleaning
  Duration last_commit{};             // of the last group: write and sync
};

class CallStore {
 public:
  virtual ~CallStore() = default;

  [[nodiscard]] virtual StoreId id() const = 0;
  [[nodiscard]] virtual const std::string& directory() const = 0;  // "" = memory

  // `done` is called exactly once, when the change is durable as the store promises, or has failed: on the store's
  // thread, or within this call. Changes become durable in order. A change that failed is not there afterwards, unless
  // the machine fails as well. Errors: exhausted (disk or store full), unavailable, internal. Any thread.
  virtual void write(CallWrite change, std::function<void(Status)> done) = 0;

  // A part as it was written. Blocks on the disk. not_found: it is not there; corrupt: its bytes are not what was
  // written, and it says where they are. Any thread.
  virtual Result<std::string> read(const CallId& id, CallPart part) = 0;

  // Parts that are not needed any more, without a write: a process that starts anew finds them again until their files
  // are cleaned, so the caller must be able to see from the state that they are over. Any thread.
  virtual void forget(const CallId& id, std::uint8_t parts) = 0;

  // The calls found when it was opened; once.
  virtual std::vector<FoundCall> found() = 0;
  [[nodiscard]] virtual const StoreDamage& damage() const = 0;

  // Once a second: starts to clean files of what is over, when there is enough of it. Any thread.
  virtual void tidy() = 0;
  [[nodiscard]] virtual CallStoreFigures figures() const = 0;
};

struct CallStoreOptions {
  std::string directory;
  Bytes bytes_max = 4_GiB;       // of all files; new calls are refused above it
  Bytes segment_bytes{};         // 0 = chosen from bytes_max
  bool group = true;             // false: one sync for every change
  Duration clean_after = 900s;   // what is over leaves the disk at the latest after this
};

// Opens or makes it. Errors: already_exists (another process has it; says which), permission_denied, exhausted, and
// corrupt when no file of it can be read at all. Damage within files is no error: see damage().
Result<std::unique_ptr<CallStore>> open_call_store(CallStoreOptions options);
// Whether a directory has been made by open_call_store.
bool is_call_store(const std::string& directory);
// `bytes_max` of requests, states and results together.
std::unique_ptr<CallStore> memory_call_store(Bytes bytes_max);

}  // namespace dirigent::store
