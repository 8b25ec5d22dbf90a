// SPDX-License-Identifier: MIT
//
// The connections of one thread to one endpoint, whatever protocol they speak, and the epoll that drives them.
// Everything here belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/bench/measurement.h"
#include "dirigent/bench/plan.h"
#include "dirigent/io/address.h"
#include "dirigent/io/file_descriptor.h"

namespace dirigent::bench {

// Something with a descriptor in the epoll.
class Pollable {
 public:
  virtual ~Pollable() = default;
  virtual void on_events(std::uint32_t events) = 0;
};

// Edge-triggered: a descriptor is registered once for both directions and never touched again.
class Poller {
 public:
  static Result<Poller> open();
  void add(int fd, Pollable& owner);
  // Waits for at most `patience` (a nanosecond's resolution), then tells the owners.
  void wait(Duration patience);
  // Destroys `owner` when the events under way have been told: one of them may be its own.
  void retire(std::unique_ptr<Pollable> owner) { retired_.push_back(std::move(owner)); }

 private:
  explicit Poller(io::FileDescriptor epoll) : epoll_(std::move(epoll)) {}
  io::FileDescriptor epoll_;
  std::vector<std::unique_ptr<Pollable>> retired_;
};

// Who makes the calls. A completed call may lead to the next one; the owner makes it later, not from inside.
class CallOwner {
 public:
  virtual ~CallOwner() = default;
  virtual void completed(const Call& call, const Answer& answer) = 0;
};

class Pool {
 public:
  virtual ~Pool() = default;
  // Sends the call now if a connection is free, else as soon as one is.
  virtual void submit(const Call& call) = 0;
  // Writes what submit() has gathered.
  virtual void flush() = 0;
  // Ends calls whose time is over.
  virtual void expire(Instant now) = 0;
  // When expire() has something to do next.
  [[nodiscard]] virtual std::optional<Instant> next_expiry() const = 0;
  [[nodiscard]] virtual std::uint64_t opened() const = 0;  // connections, ever
};

struct PoolContext {
  const Plan& plan;
  Poller& poller;
  CallOwner& owner;
  io::SocketAddress address;
  unsigned connections;  // at most
};

std::unique_ptr<Pool> make_http1_pool(const PoolContext& context);
std::unique_ptr<Pool> make_h2_pool(const PoolContext& context);

// A non-blocking socket on its way to `address`. Errors: what the system says.
Result<io::FileDescriptor> start_connect(const io::SocketAddress& address);
// What became of it: 0 or an errno.
int connect_error(int fd);

}  // namespace dirigent::bench
