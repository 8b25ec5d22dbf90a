// SPDX-License-Identifier: MIT
//
// What the shards of one data plane share: per sandbox, how many requests are in flight; per function, how many wait.
// Everything else a shard has to itself. These two are the only objects of the deciding tower that several threads
// touch, and they consist of atomics only.
//
// Owned by the Switchboard, which frees a SandboxSlots only when it is out of every shard's table and nothing is in
// flight in it; a Lease may therefore hold a plain pointer.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "dirigent/base/time.h"
#include "dirigent/model/messages.h"

namespace dirigent::core {

class SandboxSlots {
 public:
  SandboxSlots(RoutedSandbox route, Instant first_routed)
      : sandbox(std::move(route)), routed_at(first_routed), limit_(sandbox.slots) {}

  const RoutedSandbox sandbox;  // as first routed; the share of slots may change later: limit()
  const Instant routed_at;      // when this data plane first heard of it

  // Takes a slot unless all are taken or the sandbox may not be used now. 0 = no limit.
  bool try_acquire() {
    const std::uint32_t limit = limit_.load(std::memory_order_relaxed);
    std::uint32_t used = in_use_.load(std::memory_order_relaxed);
    do {
      if (limit != 0 && used >= limit) return false;
    } while (!in_use_.compare_exchange_weak(used, used + 1, std::memory_order_seq_cst, std::memory_order_relaxed));
    return true;
  }
  // Gives a slot back; returns how many are still taken.
  std::uint32_t release() { return in_use_.fetch_sub(1, std::memory_order_seq_cst) - 1; }

  [[nodiscard]] std::uint32_t in_use() const { return in_use_.load(std::memory_order_seq_cst); }
  [[nodiscard]] std::uint32_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::uint32_t limit) { limit_.store(limit, std::memory_order_relaxed); }

  // A connection to it failed: no shard chooses it until it is routed anew or forgiven.
  [[nodiscard]] bool suspect() const { return suspect_.load(std::memory_order_relaxed); }
  void set_suspect(bool suspect) { suspect_.store(suspect, std::memory_order_relaxed); }

  // The Switchboard waits for so few requests to be in the sandbox: the release that leaves exactly as many tells it.
  static constexpr std::uint32_t kNobodyWaits = 0xffffffff;
  [[nodiscard]] std::uint32_t awaited() const { return awaited_.load(std::memory_order_seq_cst); }
  void await(std::uint32_t in_use) { awaited_.store(in_use, std::memory_order_seq_cst); }
  // Out of the routes.
  [[nodiscard]] bool retired() const { return awaited() == 0; }

 private:
  std::atomic<std::uint32_t> limit_;
  std::atomic<bool> suspect_{false};
  std::atomic<std::uint32_t> awaited_{kNobodyWaits};
  // On a cache line of its own: every request of every shard writes here.
  alignas(64) std::atomic<std::uint32_t> in_use_{0};
};

class FunctionShared {
 public:
  FunctionShared(FunctionName function, std::uint32_t home) : name(std::move(function)), home_shard(home) {}

  const FunctionName name;
  const std::uint32_t home_shard;  // whose dispatcher keeps the queue

  // Requests in the home shard's queue, or on their way there. Not zero: whoever frees a slot tells the home shard, and
  // whoever arrives queues behind.
  alignas(64) std::atomic<std::uint32_t> waiting{0};
};

}  // namespace dirigent::core
