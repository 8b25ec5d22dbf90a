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
  // `ready`: how many are kept. `taken`: numbers in use already. `cni`: who connects them, or null: the network does.
  // Network and CNI must outlive the pool.
  NetworkPool(io::Loop& loop, Network& network, CniNetwork* cni, std::uint32_t ready,
              const std::vector<std::uint32_t>& taken);

  // One that is ready, or a new one. exhausted: all addresses are in use.
  io::Task<NetworkPlace> take(Instant deadline);
  // A place that nobody uses any more. Its namespace ends with it; by CNI it is taken back in the background.
  void give_back(NetworkPlace place);
  // In the background: a place that an earlier worker made is looked at, and a warning says when CNI finds it changed.
  void look_at(const NetworkPlace& place);
  // In the background: attachments by CNI of an earlier life of the node are taken back, but those of `kept`.
  void take_back_all_but(std::vector<std::string> kept);
  void refill();
  io::Task<void> close();

 private:
  io::Task<void> make_one();
  void take_back(const std::vector<std::string>& attachments);

  io::Loop& loop_;
  Network& network_;
  CniNetwork* cni_;
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
  std::unique_ptr<Helpers> removers_;  // of their own, so that taking back never delays making; CNI only
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // asked by what comes back from removers_
  io::TaskGroup group_;
};

}  // namespace dirigent::sandbox
