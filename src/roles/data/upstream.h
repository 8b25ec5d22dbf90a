// SPDX-License-Identifier: MIT
//
// Connections to sandboxes, kept per sandbox and shard and reused last in, first out: the one used last is the least
// likely to have been closed by the sandbox. One thread: the shard's.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/core/slots.h"
#include "roles/data/poller.h"
#include "dirigent/base/timer_wheel.h"

namespace dirigent::roles {

// Whoever has a request on an upstream connection.
class UpstreamUser {
 public:
  virtual void on_upstream_ready() = 0;

 protected:
  ~UpstreamUser() = default;
};

struct SandboxConnections;
class UpstreamPool;

class UpstreamConnection final : public PolledSocket {
 public:
  explicit UpstreamConnection(UpstreamPool& pool);
  // Carried a whole exchange before.
  [[nodiscard]] bool reused() const { return reused_; }

 private:
  friend class UpstreamPool;
  void on_ready() override;
  static void on_idle_timer(void* self, Instant now);

  UpstreamPool& pool_;
  SandboxConnections* sandbox_ = nullptr;
  UpstreamUser* user_ = nullptr;
  TimerNode idle_timer_;
  bool reused_ = false;
};

struct UpstreamPoolOptions {
  std::string host_id;
  Duration idle_timeout = 60s;
  std::size_t idle_per_sandbox_max = 256;
};

class UpstreamPool {
 public:
  UpstreamPool(Poller& poller, TimerWheel& wheel, UpstreamPoolOptions options);
  UpstreamPool(const UpstreamPool&) = delete;
  UpstreamPool& operator=(const UpstreamPool&) = delete;
  ~UpstreamPool();

  // A kept connection, or nullptr when there is none.
  UpstreamConnection* take_idle(const core::SandboxSlots& sandbox, UpstreamUser& user);
  // A socket on its way to the sandbox, non-blocking, which belongs to the caller; the first send tells whether it has
  // arrived. Errors: unavailable and the like, with the address; exhausted when descriptors have run out and no kept
  // connection could be closed for one.
  Result<int> dial(const core::SandboxSlots& sandbox);
  // A new connection, established or on its way. Errors: those of dial().
  Result<UpstreamConnection*> connect(const core::SandboxSlots& sandbox, UpstreamUser& user);
  // The exchange is over and the connection may carry another one.
  void keep(UpstreamConnection* connection, Instant now);
  void close(UpstreamConnection* connection);

  void close_idle();
  // Closes some of the kept connections, for want of descriptors; how many. Kept connections are a convenience: nobody is
  // turned away for them.
  std::size_t reclaim();
  // Connections closed in this batch of events may be used again.
  void after_batch();
  [[nodiscard]] std::size_t open() const { return open_; }
  [[nodiscard]] std::size_t idle() const { return idle_count_; }

 private:
  friend class UpstreamConnection;
  void idle_ready(UpstreamConnection& connection);
  void take_out_of_idle(UpstreamConnection& connection);

  Poller& poller_;
  TimerWheel& wheel_;
  UpstreamPoolOptions options_;
  std::unordered_map<SandboxId, std::unique_ptr<SandboxConnections>> sandboxes_;
  std::vector<std::unique_ptr<UpstreamConnection>> all_;
  std::vector<UpstreamConnection*> free_;
  std::vector<UpstreamConnection*> closed_;  // in this batch
  std::size_t open_ = 0;
  std::size_t idle_count_ = 0;
  std::size_t reclaimed_until_ = 0;  // place in all_, so that each is as likely to go as the next
};

// Whether a call failed with this errno for want of descriptors.
inline bool is_out_of_descriptors(int error) { return error == EMFILE || error == ENFILE; }

// The address of "198.18.0.6:8080" or "[fd00::6]:8080". Names are not looked up: that could block the loop.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};
Result<SocketAddress> parse_socket_address(std::string_view text);
// "127.0.0.1:8080", "[::1]:8080".
std::string to_string(const SocketAddress& address);

}  // namespace dirigent::roles
