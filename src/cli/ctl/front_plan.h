// SPDX-License-Identifier: MIT
//
// HAProxy in front of the data planes: its configuration, and what a running one has to be told when data planes come and
// go. Its servers are slots that are made once; a data plane gets one and keeps it, so that nothing is ever restarted.
// Pure; ctl/front.cpp has the files and the socket.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"

namespace dirigent::cli {

struct FrontOptions {
  std::string bind = "*:80";            // where clients invoke functions
  std::size_t slots = 32;               // the most data planes there may ever be without a restart
  std::string socket;                   // HAProxy's own, for commands
  bool is_h2 = false;                   // HTTP/2 to the data planes, which gRPC needs
  std::string form_bind;                // where clients register by form; empty = not here
  std::vector<std::string> form_servers;
};

// One of the slots. HOST:PORT of the data plane in it; empty = nobody's.
struct FrontSlot {
  std::string address;
  bool is_up = false;  // by HAProxy's own checks

  friend bool operator==(const FrontSlot&, const FrontSlot&) = default;
};

// The whole configuration. What it says of the slots is what a HAProxy that starts with it begins with.
std::string front_configuration(const FrontOptions& options, const std::vector<FrontSlot>& slots);

// The slots of a running HAProxy, from its answer to "show servers state dirigent_data_planes". Errors: corrupt.
Result<std::vector<FrontSlot>> read_front_slots(std::string_view answer);

// HOST:PORT with a numeric host, as HAProxy takes it: nothing else can be given to a running one.
bool is_front_address(std::string_view address);

struct FrontChanges {
  std::vector<FrontSlot> slots;         // as they shall be
  std::vector<std::string> commands;    // for the running one, in this order
  std::vector<std::string> words;       // what changes, for people
  std::vector<std::string> left_out;    // data planes for which there is no slot
};

// Decides over time. A data plane that the control plane does not name any more is taken out when HAProxy finds it down,
// and never before it has been missing for a while: a control plane that has just started does not know all yet.
class FrontKeeper {
 public:
  static constexpr Duration kMissingPatience = 10s;

  // `planes` as the control plane names them now; duplicates and unusable addresses are left out by the caller.
  FrontChanges update(const std::vector<FrontSlot>& slots, const std::vector<std::string>& planes, Instant now);

 private:
  std::map<std::string, Instant> missing_since_;
};

}  // namespace dirigent::cli
