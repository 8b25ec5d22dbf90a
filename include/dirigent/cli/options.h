// SPDX-License-Identifier: MIT
//
// The settings of each role as values: what remains after flags, environment, configuration file and defaults have been
// merged and checked (docs/operations.md lists them all). Plain structs, so that the roles know nothing of command
// lines. Addresses are "host:port" or "unix:/path"; port 0 asks for any free one.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/log.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/model/resources.h"
#include "dirigent/model/scaling.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/balancer.h"
#include "dirigent/policy/placement.h"
#include "dirigent/roles/async_options.h"

namespace dirigent::cli {

// Of every role's process.
struct ProcessOptions {
  LogLevel log_level = LogLevel::info;
  LogFormat log_format = LogFormat::automatic;
  bool print_addresses = false;   // one JSON line on stdout with all real addresses, as the last word of the start
  bool exit_with_stdin = false;   // stop when stdin reaches its end, so that no test leaks a process
  Duration drain_time = 30s;      // at most, from SIGTERM to the end of the last request
};

// Decisions, shared by `control` and `dev`.
struct PolicyOptions {
  policy::AutoscalerKind autoscaler = policy::AutoscalerKind::knative;
  policy::PlacementKind placement = policy::PlacementKind::kubernetes;
  std::string form_profile = "dirigent";  // scaling profile of functions that are registered by form
  bool form_sweep = false;                // they get the 6 s window and one sandbox of a cold-start sweep
  std::string load_balancer_address;      // answer to a registration by form; "" = the data planes
  std::vector<std::pair<std::string, std::string>> image_map;  // (pattern, image) of registrations by form
  std::string state_dir;                  // "" = state in memory
};

struct ControlOptions {
  ProcessOptions process;
  std::string rpc_listen = "127.0.0.1:9090";
  std::string form_listen = "127.0.0.1:9091";
  std::string admin_listen = "127.0.0.1:9092";
  PolicyOptions policies;
  std::uint32_t peer_id = 0;                       // 0 = alone
  std::vector<std::string> peers;                  // "ID=HOST:PORT"
  std::string peer_listen;
  bool peer_join = false;
  Duration election_timeout = 125ms;
};

// Limits of a data plane, shared by `data` and `dev`.
struct DataLimitOptions {
  Bytes head_max = 32_KiB;                         // of a request; twice as much of a response
  std::uint32_t headers_max = 100;
  Bytes target_max = 8_KiB;
  Duration head_timeout = 10s;
  Duration keep_alive_timeout = 60s;               // of a client connection without a request
  std::uint32_t requests_per_connection_max = 0;   // 0 = no limit
  Duration connect_timeout = 500ms;                // to a sandbox
  Duration sandbox_keep_alive = 60s;               // of a connection to a sandbox without a request
  std::uint32_t streams_max = 1000;                // HTTP/2 requests at a time on one connection
  std::uint32_t connections_per_address_max = 0;   // 0 = no limit
  Duration body_timeout = 10s;
  Bytes body_rate_min = 1_KiB;                     // per second; 0 = any
  Bytes body_max;                                  // 0 = no limit
  Bytes memory_max = 512_MiB;
};

struct DataOptions {
  ProcessOptions process;
  std::string listen = "127.0.0.1:8080";
  std::string admin_listen = "127.0.0.1:9093";
  std::vector<std::string> control{"127.0.0.1:9090"};
  std::string id;                  // "" = the host's name and the port
  std::string advertise;           // host:port that clients use; "" = the real listen address
  std::uint32_t shards = 0;        // 0 = one per CPU
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  bool expose_timing = true;       // Server-Timing and its kin on responses
  std::string access_log;          // a path, "-" = standard output, "" = none
  double access_log_sample = 1;    // of the calls
  DataLimitOptions limits;
  roles::AsyncOptions async;
  std::uint32_t connections_max = 10'000;
  Duration leave_notice{};                   // from SIGTERM, for load balancers
  std::vector<std::string> trusted_proxies;  // peers whose X-Forwarded-* are believed
};

enum class RuntimeKind { process, oci, containerd, simulated };
std::string_view to_string(RuntimeKind kind);
Result<RuntimeKind> parse_runtime(std::string_view word);  // unknown: an error with a suggestion
const std::vector<std::string>& runtime_names();           // those compiled in

// How a worker starts sandboxes, shared by `worker` and `dev`.
struct NodeOptions {
  std::string name;                // "" = the host's name
  RuntimeKind runtime = RuntimeKind::process;
  Resources capacity;              // zero parts = what the machine has
  std::uint32_t sandboxes_max = 0; // 0 = no limit but the resources
  std::uint32_t starts_max = 64;   // on their way to ready at a time; 0 = no limit
  std::optional<std::uint32_t> parked_sandboxes;  // prepared and idle; nothing = roles::parked_by_default()
  std::string image_dir = "/var/lib/dirigent/images";
  Bytes image_cache_max = 10_GiB;
  std::string pull = "missing";        // never, missing, always
  std::string registry_auth = "/etc/dirigent/auth.json";
  std::vector<std::string> insecure_registries;
  bool user_namespaces = false;
  bool root_writable = false;          // oci
  std::string oci_program;             // oci, containerd; "" = the runtime's choice
  std::string containerd_address = "/run/containerd/containerd.sock";
  bool shared_shim = false;            // containerd
  std::string cni_conf;                // oci, containerd; "" = networks of the worker's own
  std::string cni_bin = "/usr/lib/cni:/opt/cni/bin";
  std::string cni_state = "/var/lib/dirigent/cni";
  std::map<std::string, std::string> labels;
  Duration simulated_start_p50 = 3ms;  // of the simulated runtime, lognormal
  Duration simulated_start_p99 = 12ms;
};

struct WorkerOptions {
  ProcessOptions process;
  std::string admin_listen = "127.0.0.1:9094";
  std::vector<std::string> control{"127.0.0.1:9090"};
  NodeOptions node;
  std::uint32_t nodes = 1;         // simulated runtime only: this many workers in one process
  std::string publish_host;        // address under which other hosts reach the sandboxes; "" = this host only
  std::uint16_t publish_port_first = 30'000;
  std::uint16_t publish_port_last = 39'999;
  Duration adopt_time{};           // how long sandboxes outlive a killed worker
};

struct DevOptions {
  ProcessOptions process;
  std::string listen = "127.0.0.1:8080";
  std::string rpc_listen = "127.0.0.1:0";
  std::string form_listen = "127.0.0.1:9091";
  std::string admin_listen = "127.0.0.1:9092";
  std::string data_admin_listen = "127.0.0.1:9093";
  std::uint32_t shards = 1;
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  bool expose_timing = true;
  std::string access_log;
  double access_log_sample = 1;
  DataLimitOptions limits;
  roles::AsyncOptions async;
  PolicyOptions policies;
  NodeOptions node;
};

}  // namespace dirigent::cli
