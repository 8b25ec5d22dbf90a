// SPDX-License-Identifier: MIT
//
// Which settings there are. docs/operations.md lists the same with more words.
#include "cli/settings.h"

#include <algorithm>

namespace dirigent::cli {

namespace {

using Table = std::vector<Setting>;

void add_process(Table& table, const std::string& section) {
  table.push_back({section, "drain_time", "DURATION", "30s", "longest wait for running requests when stopping"});
  table.push_back({section,
                   "log_level",
                   "LEVEL",
                   "info",
                   "debug, info, warn, error or off",
                   false,
                   {"debug", "info", "warn", "error", "off"}});
  table.push_back({section,
                   "log_format",
                   "FORMAT",
                   "auto",
                   "auto (text on a terminal, else json), text or json",
                   false,
                   {"auto", "text", "json"}});
  table.push_back(
      {section, "print_addresses", "", "false", "print all real addresses as one JSON line on stdout when ready"});
  table.push_back({section, "exit_with_stdin", "", "false", "stop when stdin ends"});
}

void add_policies(Table& table, const std::string& section) {
  table.push_back({section, "state_dir", "DIR", "", "keep functions in this directory (without it: in memory)"});
  table.push_back({section, "autoscaler", "NAME", "knative", "policy that decides how many sandboxes", false,
                   policy::autoscaler_names()});
  table.push_back(
      {section, "placement", "NAME", "kubernetes", "policy that chooses nodes", false, policy::placement_names()});
  table.push_back({section, "form_profile", "NAME", "dirigent", "scaling profile of functions registered by form",
                   false, scaling_profile_names()});
  table.push_back({section, "form_sweep", "", "false",
                   "functions registered by form get a 6 s window and one sandbox, for cold-start sweeps"});
  table.push_back({section, "load_balancer_address", "HOST:PORT", "",
                   "answer to registrations by form (without it: all data planes)"});
  table.push_back({section, "image_map", "PATTERN=IMAGE",
                   "docker.io/cvetkovic/*=builtin:trace,cvetkovic/*=builtin:trace",
                   "images replaced in registrations by form; \"none\" = none", true});
}

void add_node(Table& table, const std::string& section) {
  table.push_back({section, "node_name", "NAME", "", "name of the node (without it: the host's name)"});
  table.push_back({section, "runtime", "NAME", "process", "what starts sandboxes", false, runtime_names()});
  table.push_back({section, "cpu", "CPUS", "", "capacity offered (without it: what the machine has)"});
  table.push_back({section, "memory", "BYTES", "", "capacity offered (without it: what the machine has)"});
  table.push_back(
      {section, "sandboxes_max", "N", "0", "most sandboxes on the node; 0 = as many as the resources allow"});
  table.push_back({section, "starts_max", "N", "64",
                   "sandboxes on their way to ready at a time, the rest waits in the control plane; 0 = no limit"});
  table.push_back({section, "parked_sandboxes", "N", "",
                   "sandboxes prepared and kept idle; oci and containerd: networks (without it: one for each CPU offered, 32 to 256)"});
  table.push_back({section, "image_dir", "DIR", "/var/lib/dirigent/images", "where images are kept, unpacked"});
  table.push_back({section, "image_cache_max", "BYTES", "10GiB", "unused image layers beyond it are removed"});
  table.push_back({section, "pull", "WHEN", "missing", "ask registries for images: never, when missing, or always", false,
                   {"never", "missing", "always"}});
  table.push_back({section, "registry_auth", "FILE", "/etc/dirigent/auth.json", "registry credentials, as docker login writes them"});
  table.push_back({section, "insecure_registry", "HOST[:PORT]", "", "registry that speaks plain HTTP", true});
  table.push_back({section, "root_writable", "", "false", "containers get a private writable layer (runtimes \"oci\" and \"containerd\")"});
  table.push_back({section, "user_namespaces", "", "false",
                   "containers get user ids of their own, which they see as 0 and up (runtimes \"oci\" and \"containerd\")"});
  table.push_back({section, "oci_program", "PROGRAM", "", "crun or runc (without it: crun if it is there; containerd's default)"});
  table.push_back({section, "containerd_address", "PATH", "/run/containerd/containerd.sock", "where containerd listens"});
  table.push_back({section, "shared_shim", "", "false", "one containerd shim for all sandboxes: faster and smaller, but one failure for all"});
  table.push_back(
      {section, "cni_conf", "FILE|DIR", "",
       "networks by this CNI configuration instead of the worker's own (runtimes \"oci\" and \"containerd\")"});
  table.push_back({section, "cni_bin", "DIR[:DIR]", "/usr/lib/cni:/opt/cni/bin", "where CNI plugins are"});
  table.push_back({section, "cni_state", "DIR", "/var/lib/dirigent/cni",
                   "which networks CNI has made, to take them back after a crash"});
  table.push_back({section, "label", "KEY=VALUE", "", "label of the node, for --constraint", true});
  table.push_back({section, "simulated_start_p50", "DURATION", "3ms", "start time of the simulated runtime, median"});
  table.push_back(
      {section, "simulated_start_p99", "DURATION", "12ms", "start time of the simulated runtime, 99th percentile"});
}

void add_data(Table& table, const std::string& section, const std::string& shards) {
  table.push_back({section, "listen", "ADDRESS", "127.0.0.1:8080", "where functions are invoked"});
  table.push_back({section, "shards", "N", shards, "event loops of the data plane; 0 = one per CPU"});
  table.push_back(
      {section, "balancer", "NAME", "knative", "policy that chooses a sandbox", false, policy::balancer_names()});
  table.push_back({section, "expose_timing", "", "true", "Server-Timing on every response"});
  table.push_back({section, "access_log", "PATH", "", "one JSON line per call; \"-\" = standard output, without it none"});
  table.push_back({section, "access_log_sample", "FRACTION", "1", "of the calls that are logged, 0 to 1"});
  table.push_back({section, "head_max", "BYTES", "32KiB", "largest head of a request; of a response twice as much"});
  table.push_back({section, "headers_max", "N", "100", "most headers of a message"});
  table.push_back({section, "target_max", "BYTES", "8KiB", "longest request target"});
  table.push_back({section, "head_timeout", "DURATION", "10s", "longest arrival of a request's head"});
  table.push_back({section, "keep_alive_timeout", "DURATION", "60s", "longest wait for the next request of a connection"});
  table.push_back({section, "requests_per_connection_max", "N", "0", "requests until a client connection is closed; 0 = no limit"});
  table.push_back({section, "connect_timeout", "DURATION", "500ms", "longest wait for a connection to a sandbox"});
  table.push_back({section, "sandbox_keep_alive", "DURATION", "60s", "how long an idle connection to a sandbox is kept"});
  table.push_back({section, "streams_max", "N", "1000", "most HTTP/2 requests at a time on one client connection"});
  table.push_back({section, "connections_per_address_max", "N", "0",
                   "most connections of one client address; 0 = no limit (trusted proxies have none)"});
  table.push_back({section, "body_timeout", "DURATION", "10s", "longest silence in a request body that a sandbox waits for"});
  table.push_back({section, "body_rate_min", "BYTES", "1KiB",
                   "slowest request body, bytes a second on average after body_timeout of waiting; 0 = any"});
  table.push_back({section, "body_max", "BYTES", "0", "largest request body; 0 = no limit"});
  table.push_back({section, "memory_max", "BYTES", "512MiB",
                   "what requests may hold in buffers; above it new ones are refused"});
}

void add_async(Table& table, const std::string& section, const std::string& callbacks) {
  const bool is_dev = section == "dev";
  table.push_back({section, "async_dir", "DIR", "",
                   is_dev ? "keep asynchronous calls in this directory (without it: below state_dir, else in memory)"
                          : "keep asynchronous calls in this directory (without it: none are taken)"});
  table.push_back({section, "async_durability", "WHEN", "group",
                   "an asynchronous call is accepted when it is synced (group: with others, sync: alone) or in memory",
                   false, {"off", "memory", "group", "sync"}});
  table.push_back({section, "async_adopt", "DIR", "", "directory of another data plane's calls, taken over while nobody has it", true});
  table.push_back({section, "async_store_max", "BYTES", "4GiB", "room for asynchronous calls; above it new ones are refused"});
  table.push_back({section, "async_body_max", "BYTES", "1MiB", "largest body of an asynchronous call"});
  table.push_back({section, "async_result_max", "BYTES", "64KiB", "so much of an answer's body is kept"});
  table.push_back({section, "async_max_inflight", "N", "16", "attempts at a time of one function"});
  table.push_back({section, "async_attempts", "N", "3", "attempts until a call is a dead letter"});
  table.push_back({section, "async_backoff_min", "DURATION", "1s", "longest wait before the second attempt; doubled with each"});
  table.push_back({section, "async_backoff_max", "DURATION", "60s", "longest wait between two attempts"});
  table.push_back({section, "async_max_age", "DURATION", "6h", "a call that has waited longer is a dead letter"});
  table.push_back({section, "async_result_keep", "DURATION", "1h", "how long answers are kept"});
  table.push_back({section, "async_dead_keep", "DURATION", "168h", "how long dead letters are kept"});
  table.push_back({section, "async_clean_after", "DURATION", "15m", "what is over has left the disk after this"});
  table.push_back({section, "async_callback_allow", "HOST[:PORT]", callbacks,
                   "where results may be sent: names, addresses, networks; \"none\" = nowhere", true});
  table.push_back({section, "async_callback_ca", "FILE", "", "certificates (PEM) that https callbacks trust (without it: those of the system)"});
  table.push_back({section, "async_callback_secret", "FILE", "", "sign callbacks with what is in this file"});
}

Table make_table() {
  Table table;
  table.push_back({"control", "rpc_listen", "ADDRESS", "127.0.0.1:9090", "where workers and data planes join"});
  table.push_back({"control", "form_listen", "ADDRESS", "127.0.0.1:9091",
                   "registration by form, as the original Dirigent's clients do"});
  table.push_back(
      {"control", "admin_listen", "ADDRESS", "127.0.0.1:9092", "the API of dirigent ctl, health and metrics"});
  table.push_back({"control", "peer_id", "N", "0", "this member's id in a group of control planes; 0 = there is no group"});
  table.push_back({"control", "peers", "ID=HOST:PORT", "", "members that a new group begins with, this one included", true});
  table.push_back({"control", "peer_listen", "ADDRESS", "", "where the other members connect (without it: this one's address in peers)"});
  table.push_back({"control", "peer_join", "", "false", "the group is there already: wait until ctl control add names this one"});
  table.push_back({"control", "election_timeout", "DURATION", "125ms", "silence of the leader after which another member stands; 50ms to 10s"});
  add_policies(table, "control");
  add_process(table, "control");

  add_data(table, "data", "0");
  add_async(table, "data", "");
  table.push_back({"data", "async", "", "false", "every request is asynchronous, as with the original Dirigent's async mode"});
  table.push_back({"data", "async_poll_listen", "ADDRESS", "127.0.0.1:8082", "with async: where its clients poll for results"});
  table.push_back({"data", "async_directory", "ADDRESS", "",
                   "admin ports of control planes, to find calls of other data planes (without it: port 9092 of those in control)", true});
  table.push_back({"data", "admin_listen", "ADDRESS", "127.0.0.1:9093", "health, metrics and the last calls"});
  table.push_back({"data", "control", "ADDRESS", "127.0.0.1:9090", "control planes to join", true});
  table.push_back({"data", "id", "NAME", "", "name of this data plane (without it: host name and port)"});
  table.push_back({"data", "advertise", "HOST:PORT", "", "address that clients use (without it: the listen address)"});
  table.push_back({"data", "connections_max", "N", "10000", "most client connections"});
  table.push_back({"data", "leave_notice", "DURATION", "0s", "when stopping, serve on for so long with /healthz at 503, so that load balancers go elsewhere"});
  table.push_back({"data", "trusted_proxy", "ADDRESS", "", "peer whose X-Forwarded-* headers are believed", true});
  add_process(table, "data");

  add_node(table, "worker");
  table.push_back({"worker", "admin_listen", "ADDRESS", "127.0.0.1:9094", "health and metrics"});
  table.push_back({"worker", "control", "ADDRESS", "127.0.0.1:9090", "control planes to join", true});
  table.push_back({"worker", "nodes", "N", "1", "workers in this process (runtime \"simulated\" only)"});
  table.push_back({"worker", "publish_host", "HOST", "", "publish sandboxes to other hosts under this address"});
  table.push_back({"worker", "publish_ports", "FIRST-LAST", "30000-39999", "ports to publish them on"});
  table.push_back({"worker", "adopt_time", "DURATION", "10s",
                   "how long sandboxes go on without a worker that was killed, for the next one to take them over; 0s = not at all"});
  add_process(table, "worker");

  add_data(table, "dev", "1");
  add_async(table, "dev", "127.0.0.1");
  table.push_back({"dev", "rpc_listen", "ADDRESS", "127.0.0.1:0", "where further workers and data planes may join"});
  table.push_back({"dev", "form_listen", "ADDRESS", "127.0.0.1:9091", "registration by form"});
  table.push_back({"dev", "admin_listen", "ADDRESS", "127.0.0.1:9092", "the API of dirigent ctl, health and metrics"});
  table.push_back({"dev", "data_admin_listen", "ADDRESS", "127.0.0.1:9093", "health, metrics and the last calls of the data plane"});
  add_node(table, "dev");
  add_policies(table, "dev");
  add_process(table, "dev");
  return table;
}

}  // namespace

const std::vector<std::string>& role_names() {
  static const std::vector<std::string> names{"control", "data", "worker", "dev"};
  return names;
}

const std::vector<Setting>& settings() {
  static const Table table = make_table();
  return table;
}

std::vector<Setting> settings_of(std::string_view section) {
  Table own;
  std::copy_if(settings().begin(), settings().end(), std::back_inserter(own),
               [&](const Setting& s) { return s.section == section; });
  return own;
}

std::string flag_name(std::string_view key) {
  std::string name(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::vector<Flag> flags_of(std::string_view section) {
  std::vector<Flag> flags{
      {"config", 'c', "FILE", "read settings from a file (sections [control] [data] [worker] [dev])"},
      {"help", 'h', "", "show this help"}};
  for (const Setting& setting : settings_of(section)) {
    std::string help = setting.help;
    if (!setting.default_value.empty() && !setting.value_name.empty()) help += " [" + setting.default_value + "]";
    flags.push_back({flag_name(setting.key), 0, setting.value_name, std::move(help), setting.is_list, setting.words});
  }
  return flags;
}

}  // namespace dirigent::cli
