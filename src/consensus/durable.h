// SPDX-License-Identifier: MIT
//
// What a member writes down, as records of a store::StateLog:
//
//   group/hard          "TERM VOTE"
//   group/snapshot      "INDEX TERM PARTS BYTES" and one line for each member
//   group/part/NNNNNNNN the PARTS pieces of the user's state
//   group/entry/N       N in 20 digits; term (8 bytes, little-endian), kind (1 byte), data
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "consensus/messages.h"
#include "dirigent/store/state_log.h"

namespace dirigent::consensus {

class Durable {
 public:
  // What is there; nullopt when nothing has ever been written. Blocks. corrupt: records that contradict each other, with
  // the key.
  Result<std::optional<Stored>> load(store::StateLog& log);
  // The records of `write`. In the order of the writes.
  std::vector<store::Write> records(const DiskWrite& write);

 private:
  std::uint64_t parts_ = 0;  // of the snapshot that is there
};

// A first write of a member that begins: nothing has happened yet.
DiskWrite first_write(const Stored& stored);

}  // namespace dirigent::consensus
