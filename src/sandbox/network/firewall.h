// SPDX-License-Identifier: MIT
//
// The rules around a worker's sandboxes, through libnftables in this process: one table that keeps sandboxes from
// opening connections to the host, to each other and to the outside, and, when publishing, one with the map of
// published ports.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::sandbox {

class Firewall {
 public:
  struct Tables {
    std::string filter;   // family inet
    std::string publish;  // family ip; "" = publish nothing
  };
  static Tables names(std::uint32_t range, bool publish);

  struct Published {
    std::uint16_t port = 0;
    std::string address;
    std::uint16_t inner_port = 0;
  };

  // Replaces tables of these names at one blow. `published`: what the map has from the beginning. Blocks. `link_prefix`: of the sandboxes' links. unsupported: built without libnftables, or no nf_tables here.
  static Result<std::unique_ptr<Firewall>> open(const Tables& tables, const std::string& link_prefix,
                                                const std::vector<Published>& published = {});
  virtual ~Firewall() = default;

  // Any helper thread; serialised inside.
  virtual Status publish(std::uint16_t port, const std::string& address, std::uint16_t inner_port) = 0;
  virtual void unpublish(std::uint16_t port) = 0;
  virtual void close() = 0;
};

}  // namespace dirigent::sandbox
