// SPDX-License-Identifier: MIT
#include "dirigent/cli/starters.h"

#include <utility>

#include "cli/bench_command.h"
#include "cli/sim_command.h"
#include "cli/version.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"
#include "dirigent/roles/dev_role.h"

namespace dirigent::cli {

namespace {

using Lines = std::vector<std::pair<std::string, std::string>>;

// Functions are idle most of the time: a development machine may promise its CPUs several times over.
constexpr std::int64_t kDevCpuOvercommit = 8;

void add_address(Lines& lines, std::string label, const std::string& address) {
  if (!address.empty()) lines.emplace_back(std::move(label), address);
}

roles::ControlRoleOptions control_role(const PolicyOptions& policies, const std::string& rpc, const std::string& form, const std::string& admin) {
  roles::ControlRoleOptions options;
  options.rpc_listen = rpc;
  options.form_listen = form;
  options.admin_listen = admin;
  options.state_directory = policies.state_dir;
  options.autoscaler = policies.autoscaler;
  options.placement = policies.placement;
  options.form_profile = policies.form_profile;
  options.form_sweep = policies.form_sweep;
  options.load_balancer_address = policies.load_balancer_address;
  options.image_map = policies.image_map;
  options.version = version_number();
  return options;
}

Result<NodeInfo> node_info(const NodeOptions& options) {
  NodeInfo node;
  node.id = roles::machine_node_id();
  if (!options.name.empty()) {
    auto id = parse_node_id(options.name);
    if (!id) return failure(id.error());
    node.id = *id;
  }
  auto host_id = io::host_id();
  if (!host_id) return failure(host_id.error());
  node.host_id = *host_id;
  node.host = node.id.value;
  const Resources machine = roles::machine_capacity();
  node.capacity = options.capacity;
  if (node.capacity.cpu.value == 0) node.capacity.cpu = machine.cpu;
  if (node.capacity.memory.value == 0) node.capacity.memory = machine.memory;
  node.sandboxes_max = options.sandboxes_max;
  node.starts_max = options.starts_max;
  node.labels = options.labels;
  node.version = version_number();
  return node;
}

roles::RuntimeChoice runtime_choice(const NodeOptions& options) {
  roles::RuntimeChoice choice;
  choice.kind = to_string(options.runtime);
  const Millicpu cpu = options.capacity.cpu.value != 0 ? options.capacity.cpu : roles::machine_capacity().cpu;
  choice.parked = options.parked_sandboxes.value_or(roles::parked_by_default(cpu));
  choice.images.directory = options.image_dir;
  choice.images.bytes_max = options.image_cache_max;
  choice.images.pull = options.pull == "never"    ? sandbox::PullPolicy::never
                       : options.pull == "always" ? sandbox::PullPolicy::always
                                                  : sandbox::PullPolicy::missing;
  choice.images.auth_file = options.registry_auth;
  choice.images.insecure_registries = options.insecure_registries;
  choice.root_writable = options.root_writable;
  choice.user_namespaces = options.user_namespaces;
  choice.oci_program = options.oci_program;
  choice.containerd_address = options.containerd_address;
  choice.shared_shim = options.shared_shim;
  choice.cni = {options.cni_conf, options.cni_bin, options.cni_state};
  choice.simulated_start_p50 = options.simulated_start_p50;
  choice.simulated_start_p99 = options.simulated_start_p99;
  return choice;
}

void add_capacity(Lines& lines, const NodeInfo& node) {
  lines.emplace_back("capacity", fmt::format("{:g} cpu, {} on node \"{}\"", static_cast<double>(node.capacity.cpu.value) / 1000,
                                             format_bytes(node.capacity.memory), node.id));
}

// --- control ------------------------------------------------------------------------------------------------------

class RunningControl final : public RunningRole {
 public:
  explicit RunningControl(std::unique_ptr<roles::ControlRole> role) : role_(std::move(role)) {}
  [[nodiscard]] Lines addresses() const override {
    Lines lines;
    add_address(lines, "rpc", role_->rpc_address());
    add_address(lines, "form", role_->form_address());
    add_address(lines, "admin", role_->admin_address());
    add_address(lines, "peer", role_->peer_address());
    return lines;
  }
  io::Action stop(Duration drain) override { co_await role_->stop(drain); }

 private:
  std::unique_ptr<roles::ControlRole> role_;
};

io::Task<std::unique_ptr<RunningRole>> start_control(io::Loop& loop, ControlOptions options) {
  auto control = control_role(options.policies, options.rpc_listen, options.form_listen, options.admin_listen);
  control.peer_id = options.peer_id;
  control.peers = options.peers;
  control.peer_listen = options.peer_listen;
  control.peer_join = options.peer_join;
  control.election_timeout = options.election_timeout;
  auto role = roles::ControlRole::start(loop, std::move(control));
  if (!role) co_return failure(role.error());
  std::unique_ptr<RunningRole> running = std::make_unique<RunningControl>(std::move(*role));
  co_return running;
}

// --- data ---------------------------------------------------------------------------------------------------------

class RunningData final : public RunningRole {
 public:
  explicit RunningData(std::unique_ptr<roles::DataRole> role) : role_(std::move(role)) {}
  [[nodiscard]] Lines addresses() const override {
    Lines lines;
    add_address(lines, "invoke", role_->address());
    add_address(lines, "admin", role_->admin_address());
    add_address(lines, "poll", role_->poll_address());
    return lines;
  }
  io::Action stop(Duration drain) override { co_await role_->stop(drain); }

 private:
  std::unique_ptr<roles::DataRole> role_;
};

void set_limits(roles::DataLimits& limits, const DataLimitOptions& options) {
  limits.head_max = options.head_max;
  limits.headers_max = options.headers_max;
  limits.target_max = options.target_max;
  limits.head_timeout = options.head_timeout;
  limits.keep_alive_timeout = options.keep_alive_timeout;
  limits.requests_per_connection_max = options.requests_per_connection_max;
  limits.connect_timeout = options.connect_timeout;
  limits.sandbox_keep_alive = options.sandbox_keep_alive;
  limits.streams_max = options.streams_max;
  limits.connections_per_address_max = options.connections_per_address_max;
  limits.body_timeout = options.body_timeout;
  limits.body_rate_min = options.body_rate_min;
  limits.body_max = options.body_max;
  limits.memory_max = options.memory_max;
}

Result<roles::DataRoleOptions> data_role(const DataOptions& options) {
  roles::DataRoleOptions data;
  data.listen = options.listen;
  data.shards = options.shards;
  data.control = options.control;
  data.id = DataPlaneId{options.id};
  data.invoke_address = options.advertise;
  auto host_id = io::host_id();
  if (!host_id) return failure(host_id.error());
  data.host_id = *host_id;
  data.admin_listen = options.admin_listen;
  data.balancer = options.balancer;
  data.limits.connections_max = options.connections_max;
  set_limits(data.limits, options.limits);
  data.expose_timing = options.expose_timing;
  data.access_log = options.access_log;
  data.access_log_sample = options.access_log_sample;
  data.trusted_proxies = options.trusted_proxies;
  data.leave_notice = options.leave_notice;
  data.async = options.async;
  if (data.async.directory_servers.empty()) {
    // Where a control plane's API is unless it was moved.
    for (const std::string& control : options.control) {
      const auto address = io::parse_address(control);
      if (!address || address->is_unix()) continue;
      io::Address admin = *address;
      admin.port = 9092;
      data.async.directory_servers.push_back(io::format_address(admin));
    }
  }
  data.version = version_number();
  return data;
}

io::Task<std::unique_ptr<RunningRole>> start_data(io::Loop& loop, DataOptions options) {
  auto data = data_role(options);
  if (!data) co_return failure(data.error());
  auto role = roles::DataRole::start(loop, std::move(*data));
  if (!role) co_return failure(role.error());
  std::unique_ptr<RunningRole> running = std::make_unique<RunningData>(std::move(*role));
  co_return running;
}

// --- worker -------------------------------------------------------------------------------------------------------

class RunningWorkers final : public RunningRole {
 public:
  [[nodiscard]] Lines addresses() const override {
    Lines lines;
    for (const auto& worker : workers) add_address(lines, "admin", worker->admin_address());
    return lines;
  }
  [[nodiscard]] Lines notes() const override {
    Lines lines;
    add_capacity(lines, workers.front()->node());
    lines.emplace_back("runtime", workers.front()->node().runtime);
    for (const auto& weakness : workers.front()->weaknesses()) lines.emplace_back("weaker", weakness);
    if (workers.size() > 1) lines.emplace_back("nodes", fmt::format("{} in this process", workers.size()));
    return lines;
  }
  io::Action stop(Duration drain) override {
    for (const auto& worker : workers) co_await worker->stop(drain);
  }

  std::vector<std::unique_ptr<roles::WorkerRole>> workers;
};

io::Task<std::unique_ptr<RunningRole>> start_worker(io::Loop& loop, WorkerOptions options) {
  auto node = node_info(options.node);
  if (!node) co_return failure(node.error());
  if (!options.publish_host.empty()) node->host = options.publish_host;
  auto running = std::make_unique<RunningWorkers>();
  for (std::uint32_t i = 0; i < options.nodes; ++i) {
    roles::WorkerRoleOptions worker;
    worker.control = options.control;
    worker.node = *node;
    if (options.nodes > 1) worker.node.id.value += fmt::format("-{:05}", i);
    if (i == 0) worker.admin_listen = options.admin_listen;
    roles::RuntimeChoice choice = runtime_choice(options.node);
    choice.publish_host = options.publish_host;
    choice.publish_port_first = options.publish_port_first;
    choice.publish_port_last = options.publish_port_last;
    choice.adopt_time = options.adopt_time;
    choice.seed = i + 1;
    auto runtime = roles::make_runtime(loop, choice, worker.node.id, worker.node.host_id);
    Error error;
    if (runtime) {
      auto role = co_await roles::WorkerRole::start(loop, std::move(worker), std::move(*runtime));
      if (role) {
        running->workers.push_back(std::move(*role));
        continue;
      }
      error = role.error();
    } else {
      error = runtime.error();
    }
    if (!running->workers.empty()) co_await running->stop(Duration::zero());
    co_return failure(std::move(error));
  }
  std::unique_ptr<RunningRole> started = std::move(running);
  co_return started;
}

// --- dev ----------------------------------------------------------------------------------------------------------

class RunningDev final : public RunningRole {
 public:
  RunningDev(std::unique_ptr<roles::DevRole> role, std::string state) : role_(std::move(role)), state_(std::move(state)) {}
  [[nodiscard]] Lines addresses() const override {
    Lines lines;
    add_address(lines, "invoke", role_->data().address());
    add_address(lines, "admin", role_->control().admin_address());
    add_address(lines, "form", role_->control().form_address());
    add_address(lines, "rpc", role_->control().rpc_address());
    add_address(lines, "data-admin", role_->data().admin_address());
    return lines;
  }
  [[nodiscard]] Lines notes() const override {
    Lines lines;
    lines.emplace_back("runtime", role_->worker().node().runtime);
    add_capacity(lines, role_->worker().node());
    lines.emplace_back("state", state_);
    for (const auto& weakness : role_->worker().weaknesses()) lines.emplace_back("weaker", weakness);
    return lines;
  }
  io::Action stop(Duration drain) override { co_await role_->stop(drain); }

 private:
  std::unique_ptr<roles::DevRole> role_;
  std::string state_;
};

io::Task<std::unique_ptr<RunningRole>> start_dev(io::Loop& loop, DevOptions options) {
  roles::DevRoleOptions dev;
  dev.control = control_role(options.policies, options.rpc_listen, options.form_listen, options.admin_listen);
  DataOptions data;
  data.listen = options.listen;
  data.admin_listen = options.data_admin_listen;
  data.shards = options.shards;
  data.balancer = options.balancer;
  data.limits = options.limits;
  data.async = options.async;
  data.expose_timing = options.expose_timing;
  data.access_log = options.access_log;
  data.access_log_sample = options.access_log_sample;
  auto data_options = data_role(data);
  if (!data_options) co_return failure(data_options.error());
  dev.data = std::move(*data_options);
  auto node = node_info(options.node);
  if (!node) co_return failure(node.error());
  if (options.node.capacity.cpu.value == 0) node->capacity.cpu.value *= kDevCpuOvercommit;
  dev.worker.node = *node;
  dev.runtime = runtime_choice(options.node);
  auto role = co_await roles::DevRole::start(loop, std::move(dev));
  if (!role) co_return failure(role.error());
  const std::string state = options.policies.state_dir.empty() ? "in memory (--state-dir keeps it)" : options.policies.state_dir;
  std::unique_ptr<RunningRole> running = std::make_unique<RunningDev>(std::move(*role), state);
  co_return running;
}

}  // namespace

Commands all_commands() {
  Commands commands;
  commands.control = start_control;
  commands.data = start_data;
  commands.worker = start_worker;
  commands.dev = start_dev;
  commands.extra.push_back({"bench", "load a cluster and measure what its users see: open and closed loops, sweeps, traces", run_bench});
  commands.extra.push_back({"sim", "simulate a cluster in virtual time: the same decisions, a trace, a seed", run_sim});
  return commands;
}

}  // namespace dirigent::cli
