// SPDX-License-Identifier: MIT
//
// What the operator may set about asynchronous calls.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/base/units.h"

namespace dirigent::roles {

// Asynchronous calls of one data plane (docs/async.md).
struct AsyncOptions {
  enum class Durability {
    off,     // none are taken
    memory,  // kept as long as the process lives
    group,   // synced before the 202, all that wait with one sync
    sync,    // the same with a sync for each
  };
  Durability durability = Durability::off;
  std::string directory;                  // of group and sync
  std::vector<std::string> adopt;         // directories of other data planes: taken over when nobody has them
  Bytes store_max = 4_GiB;                // of all calls; above it new ones are refused
  Bytes segment_bytes{};                  // of one file; 0 = chosen from store_max
  Bytes body_max = 1_MiB;
  Bytes result_max = 64_KiB;              // of an answer's body; longer ones are cut
  std::uint32_t inflight_max = 16;        // of one function
  std::uint32_t attempts_max = 3;
  Duration backoff_min = 1s;
  Duration backoff_max = 60s;
  Duration age_max = 6h;
  Duration result_keep = 1h;
  Duration dead_keep = 7 * 24h;
  Duration clean_after = 15min;           // until what is over has left the disk
  std::vector<std::string> callback_allow;  // hosts, addresses and networks, with or without a port; none = no callbacks
  std::string callback_ca_file;           // PEM: whose certificates https callbacks trust; "" = those of the system
  std::string callback_secret_file;       // callbacks are signed with its content; "" = not
  bool takes_everything = false;          // the original's --async: every request is asynchronous, its 200 is the id
  std::string poll_listen;                // the original's poll port; "" = none
  std::vector<std::string> directory_servers;  // admin addresses of control planes: where the other data planes are
};

}  // namespace dirigent::roles
