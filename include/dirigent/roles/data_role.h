// SPDX-License-Identifier: MIT
//
// The data role: accepts requests, finds or waits for a sandbox with room, and forwards. One forwarding shard per core
// (shard 0 on the caller's loop, the others on threads of their own), one connection to the control plane, one admin
// port. How a request travels is in docs/life_of_a_request.md.
//
// Everything here is called on the main loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/model/ids.h"
#include "dirigent/policy/balancer.h"
#include "dirigent/roles/async_options.h"

namespace dirigent::roles {

// Limits of one data plane; those of a function's requests are in its RequestLimits.
struct DataLimits {
  Bytes head_max = 32_KiB;               // of a request; a response's is twice as much
  std::uint32_t headers_max = 100;       // at most 256
  Bytes target_max = 8_KiB;
  Duration head_timeout = 10s;           // from the first byte of a head to its last
  // A request body that the sandbox waits for, until the response's head. Not of gRPC and tunnels, whose silence is
  // meant.
  Duration body_timeout = 10s;           // between two reads
  Bytes body_rate_min = 1_KiB;           // per second on average, looked at after body_timeout of waiting; 0 = off
  Bytes body_max{};                      // of one request; 0 = no limit: bodies are relayed, never kept
  Duration keep_alive_timeout = 60s;     // of a client connection without a request
  Duration sandbox_keep_alive = 60s;     // of a connection to a sandbox without a request
  Duration connect_timeout = 500ms;      // to a sandbox
  std::uint32_t connections_max = 10'000;          // of clients, all shards together
  // One address may be thousands of clients (a load balancer, a load generator), so that only the operator knows a
  // number.
  std::uint32_t connections_per_address_max = 0;   // of one client address, all shards; 0 = no limit
  std::uint32_t streams_max = 1000;                // HTTP/2 requests at a time on one connection
  // What requests hold (heads, buffers, HTTP/2 sessions), all shards together; above it new requests are refused.
  // 10,000 parked requests hold 50 MiB, 4,000 bodies on their way 256 MiB.
  Bytes memory_max = 512_MiB;
  std::uint32_t requests_per_connection_max = 0;   // 0 = no limit
  std::uint32_t idle_per_sandbox_max = 256;        // kept connections per sandbox and shard
  std::uint32_t calls_kept = 10'000;               // the last calls, for `dirigent ctl trace`; 376 bytes each
  std::uint32_t metric_functions_max = 1000;       // functions with metric series of their own
};

struct DataRoleOptions {
  std::string listen = "127.0.0.1:8080";
  std::uint32_t shards = 0;              // 0 = one per CPU this process may use
  std::vector<std::string> control;      // "host:port" or "unix:/path", tried in turn
  DataPlaneId id;                        // empty = the host's name and the address that listen got
  std::string invoke_address;            // told to clients of the control plane; "" = the address that listen got
  std::string host_id;                   // sandboxes of the same host are reached directly
  std::string admin_listen;              // "" = no admin port
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  DataLimits limits;
  bool expose_timing = true;             // Server-Timing and X-Served-By on responses
  std::vector<std::string> trusted_proxies;  // whose X-Forwarded-* is believed: addresses and networks
  std::string access_log;                // one JSON line per call: a path, "-" = standard output, "" = none
  double access_log_sample = 1;          // of the calls, 0 to 1
  // When it is stopped it serves for so long with /healthz and /readyz at 503 before it refuses anything.
  Duration leave_notice{};
  AsyncOptions async;
  std::string version;
  std::uint64_t seed = 0;                // 0 = from the operating system
};

class DataRole {
 public:
  virtual ~DataRole() = default;

  // Listens, starts the shards and begins to look for the control plane; returns before it is found. Errors:
  // invalid_argument names the option, everything else the address and what is wrong with it.
  static Result<std::unique_ptr<DataRole>> start(io::Loop& main, DataRoleOptions options);

  // Where functions are invoked and where /metrics, /healthz, /readyz and the last calls are, with the real ports ("" = none).
  [[nodiscard]] virtual std::string address() const = 0;
  [[nodiscard]] virtual std::string admin_address() const = 0;
  // Where the original's clients poll for results ("" = nowhere).
  [[nodiscard]] virtual std::string poll_address() const = 0;
  // A complete route update has been applied, and the role is not draining.
  [[nodiscard]] virtual bool ready() const = 0;

  // Tells the control plane, stops accepting, finishes what is in flight within `drain`, refuses what still waits then,
  // and joins the threads. Must be awaited once before destruction.
  virtual io::Action stop(Duration drain) = 0;
};

}  // namespace dirigent::roles
