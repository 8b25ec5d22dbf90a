// SPDX-License-Identifier: MIT
#include "dirigent/store/state_log.h"
#include "log_backend.h"

namespace dirigent::store {

#if DIRIGENT_ROCKSDB

Result<std::unique_ptr<StateLog>> open_state_log(const std::string& directory) {
  auto backend = open_rocksdb_backend(directory);
  if (!backend) return failure(backend.error());
  return queued_state_log(std::move(*backend));
}

#else

Result<std::unique_ptr<StateLog>> open_state_log(const std::string& directory) {
  return failure(ErrorCode::unsupported,
                 "cannot keep state in {}: this build has no RocksDB (build with "
                 "-Drocksdb=enabled, or keep state in memory)", directory);
}

#endif

}  // namespace dirigent::store
