// SPDX-License-Identifier: MIT
//
// Network namespaces made ahead of the order, and the numbers of their addresses.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "dirigent/io/task.h"
#include "sandbox/helpers.h"
#include "sandbox/network/namespaces.h"

namespace dirigent::sandbox {

class NetworkPool {
 public:
  // `ready`: how many are kept. `taken`: numbers in use already. The network must outlive the pool.
  NetworkPool(io::Loop& loop, Network& network, std::uint32_t ready, const std::vector<std::uint32_t>& taken);

  // One that is ready, or a new one. exhausted: all addresses are in use.
  io::Task<NetworkPlace> take(Instant deadline);
  // The number of a place that is no more; used again last of all.
  void give_back(std::uint32_t number) { numbers_.push_back(number); }
  void refill();
  io::Task<void> close();

 private:
  io::Task<void> make_one();

  io::Loop& loop_;
  Network& network_;
  std::uint32_t wanted_;
  bool closing_ = false;
  std::uint32_t next_serial_;
  std::deque<std::uint32_t> numbers_;
  std::deque<NetworkPlace> ready_;
  std::deque<std::shared_ptr<Signal>> waiters_;
  std::size_t making_ = 0;
  Error last_error_;
  Instant refill_after_{};
  std::unique_ptr<Helpers> helpers_;
  io::TaskGroup group_;
};

}  // namespace dirigent::sandbox
