// SPDX-License-Identifier: MIT
//
// Durable key-value records of one role on one node: RocksDB behind one writer thread (group commit), or memory.
// "Write-behind" for whoever does not wait: the future may be ignored. Whoever acknowledges to somebody waits for it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::store {

struct Write {
  std::string key;
  std::optional<std::string> value;  // nullopt deletes
};

class StateLog {
 public:
  virtual ~StateLog() = default;

  // Queues `writes` as one atomic batch and returns at once. `done` is called exactly once, on the writer thread, when
  // the batch is durable (synced) or has failed; batches become durable in order. Any thread.
  virtual void append(std::vector<Write> writes, std::function<void(Status)> done) = 0;

  // All records whose key starts with `prefix`, in key order. Blocks: for start-up only.
  virtual Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string& prefix) = 0;

  // Records queued and not yet durable.
  [[nodiscard]] virtual std::size_t lag() const = 0;
};

// Opens or creates the log in `directory` (made with mode 0700 when missing). Errors say what to do: directory not
// writable, locked by another process, corrupt, or this build has no RocksDB.
Result<std::unique_ptr<StateLog>> open_state_log(const std::string& directory);

// Durable as long as the process lives.
std::unique_ptr<StateLog> memory_state_log();
// Keeps nothing and confirms every write: for a role whose state ends with it, and which has it in memory anyway.
std::unique_ptr<StateLog> forgetful_state_log();

}  // namespace dirigent::store
