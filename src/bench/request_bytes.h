// SPDX-License-Identifier: MIT
//
// The bytes of the requests to each target, made once: a call only puts its run time in, if it has one.
#pragma once

#include <string>
#include <vector>

#include "dirigent/bench/plan.h"

namespace dirigent::bench {

// The header fields besides :method and the like, as both protocols send them; names in lower case for h2c.
std::vector<std::pair<std::string, std::string>> header_fields(const Plan& plan, const Target& target, bool lower_case);

class RequestBytes {
 public:
  explicit RequestBytes(const Plan& plan);
  // Appends the whole head to `out`. The run time is whole milliseconds, as the Invitro loader sends it.
  void append_head(std::string& out, std::uint32_t target, Duration run_time) const;
  // The head when no run time goes in.
  [[nodiscard]] const std::string& head(std::uint32_t target) const { return heads_[target].before; }
  [[nodiscard]] bool has_run_time() const { return has_run_time_; }

 private:
  struct Head {
    std::string before;
    std::string after;  // of the run time
  };
  bool has_run_time_;
  std::vector<Head> heads_;
};

}  // namespace dirigent::bench
