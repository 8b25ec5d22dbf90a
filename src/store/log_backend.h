// SPDX-License-Identifier: MIT
//
// Where the records of a state log are kept. The queue, the writer thread and the order of answers are the same for
// every backend (queued_state_log.cpp).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/store/state_log.h"

namespace dirigent::store {

class LogBackend {
 public:
  virtual ~LogBackend() = default;
  // Makes all of `batches` durable, in order, as one atomic write. On the writer thread only.
  virtual Status commit(const std::vector<const std::vector<Write>*>& batches) = 0;
  // Any thread, also during commit().
  virtual Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string& prefix) = 0;
};

// Starts the writer thread, which is called `state-log`.
std::unique_ptr<StateLog> queued_state_log(std::unique_ptr<LogBackend> backend);

#if DIRIGENT_ROCKSDB
Result<std::unique_ptr<LogBackend>> open_rocksdb_backend(const std::string& directory);
#endif

}  // namespace dirigent::store
