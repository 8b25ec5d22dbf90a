// SPDX-License-Identifier: MIT
//
// The network of a worker's sandboxes: a range of 4096 addresses out of 198.18.0.0/15, claimed for as long as the lock
// is held; a veth pair per cell with a /32 route and permanent neighbour entries on both ends, no bridge.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/cell/wire.h"
#include "sandbox/netlink.h"

namespace dirigent::sandbox {

inline constexpr std::uint32_t kRangeSize = 1u << (32 - wire::kRangePrefix);
inline constexpr std::uint32_t kRanges = 32;

// A name that only one process of this network namespace can hold: an abstract unix socket, given back by the kernel.
class NameLock {
 public:
  NameLock() = default;
  NameLock(NameLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  // One that another process of this node has handed over.
  explicit NameLock(io::FileDescriptor taken) : fd_(taken.release()) {}
  NameLock& operator=(NameLock&& other) noexcept;
  ~NameLock();
  // already_exists when it is held.
  static Result<NameLock> take(const std::string& name);
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

class Network {
 public:
  // Claims a range, preferring the same one for the same node, and gives the host its gateway address.
  static Result<std::unique_ptr<Network>> open(const std::string& node);
  // The range with this gateway, whose lock another worker has left.
  static Result<std::unique_ptr<Network>> take_over(NameLock lock, std::uint32_t gateway);

  // Makes the link of a cell whose first process is `pid`. Any one thread at a time (serialised inside).
  Result<wire::Network> attach(std::uint32_t serial, std::uint32_t pid, std::uint32_t number);
  // The same with a descriptor of the network namespace, for cells that have no process yet.
  Result<wire::Network> attach_namespace(std::uint32_t serial, int network_namespace, std::uint32_t number);
  void remove_gateway();
  // Waits until the kernel has removed every link of the range: it does so behind the end of their namespaces.
  void wait_for_links(Duration patience) const;

  [[nodiscard]] std::uint32_t range() const { return range_; }
  [[nodiscard]] std::uint32_t gateway() const { return address_of(1); }  // network order
  [[nodiscard]] std::uint32_t address_of(std::uint32_t number) const;    // network order
  [[nodiscard]] std::string link_prefix() const;                         // "dg1f-"
  [[nodiscard]] int lock_fd() const { return lock_.fd(); }

 private:
  Network() = default;
  Status set_up();
  Result<wire::Network> route(const std::string& name, std::uint32_t number);

  std::uint32_t range_ = 0;
  NameLock lock_;
  std::mutex mutex_;
  netlink::RouteSocket socket_;
};

std::string to_dotted(std::uint32_t address_in_network_order);

}  // namespace dirigent::sandbox
