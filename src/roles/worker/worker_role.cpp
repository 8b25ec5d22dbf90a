// SPDX-License-Identifier: MIT
#include "dirigent/roles/worker_role.h"

#include <sched.h>
#include <unistd.h>

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "dirigent/core/keeper.h"
#include "dirigent/io/http.h"
#include "dirigent/io/prometheus.h"
#include "dirigent/rpc/cluster.h"
#include "roles/link_metrics.h"

namespace dirigent::roles {

namespace {

// How busy the node is. That it lives is told by the connection itself, every second.
constexpr Duration kUsageInterval = 10s;
constexpr Duration kUsageIntervalMax = 60s;  // while it hardly changes
constexpr Duration kLeaderPatience = 3s;      // of a worker that stops, for a control plane that hears of it

// Memory in use on the machine, and the load average as CPUs in use.
Resources measure_usage() {
  Resources used;
  std::ifstream meminfo("/proc/meminfo");
  std::string line;
  std::int64_t total_kib = 0;
  std::int64_t available_kib = 0;
  while (std::getline(meminfo, line)) {
    std::istringstream words(line);
    std::string key;
    std::int64_t value = 0;
    words >> key >> value;
    if (key == "MemTotal:") total_kib = value;
    if (key == "MemAvailable:") available_kib = value;
  }
  used.memory = Bytes{(total_kib - available_kib) * 1024};
  std::ifstream loadavg("/proc/loadavg");
  double load = 0;
  loadavg >> load;
  used.cpu = Millicpu{static_cast<std::int64_t>(load * 1000)};
  return used;
}

class WorkerRoleImpl final : public WorkerRole, public rpc::WorkerHandler {
 public:
  WorkerRoleImpl(io::Loop& loop, WorkerRoleOptions options, std::unique_ptr<sandbox::Runtime> runtime)
      : loop_(loop), options_(std::move(options)), runtime_(std::move(runtime)), keeper_(keeper_options()),
        tasks_(loop, "worker"), timer_(loop, [this] { tick(); }) {}

  io::Task<void> open();

  [[nodiscard]] std::string admin_address() const override { return admin_ ? admin_->address() : std::string(); }
  [[nodiscard]] const NodeInfo& node() const override { return options_.node; }
  [[nodiscard]] bool joined() const override { return is_joined_; }
  [[nodiscard]] std::vector<std::string> weaknesses() const override { return runtime_->weaknesses(); }
  io::Action stop(Duration drain) override;

  // rpc::WorkerHandler
  WorkerHello hello() override { return {kProtocolVersion, options_.node, keeper_.statuses(io::Loop::now())}; }
  void joined(Term term) override {
    is_joined_ = true;
    log_info("worker", "node {} joined the cluster, term {}", options_.node.id, term);
    if (stopping_) client_->send(WorkerLeaving{});
    say_usage(true);
    told_images_.reset();
    tasks_.spawn(tell_images());
  }
  void ordered(std::vector<WorkerOrder> orders) override {
    core::KeeperEffects effects;
    const Instant now = io::Loop::now();
    for (const auto& order : orders) keeper_.ordered(order, now, effects);
    perform(std::move(effects));
  }
  void lost(std::string why) override {
    if (is_joined_) log_warn("worker", "node {} lost the control plane: {}", options_.node.id, why);
    is_joined_ = false;
  }
  rpc::LogAnswer logs(rpc::LogQuery query) override;

 private:
  [[nodiscard]] core::KeeperOptions keeper_options() const {
    core::KeeperOptions options;
    options.launches_max = options_.launches_max;
    options.stop_grace = options_.stop_grace;
    if (options_.node.sandboxes_max != 0) options.sandboxes_max = options_.node.sandboxes_max;
    return options;
  }
  void perform(core::KeeperEffects effects);
  void tick();
  io::Action launch(StartSandbox order);
  io::Action probe(core::KeeperEffects::Probe probe);
  io::Action remove(core::KeeperEffects::Remove removal);
  void say_usage(bool even_the_same);
  io::Action prefetch(std::string image);
  io::Action tell_images();
  io::Action heartbeat();
  asio::awaitable<io::HttpResponse, asio::io_context::executor_type> answer(io::HttpRequest request);
  std::string metrics() const;

  io::Loop& loop_;
  WorkerRoleOptions options_;
  std::unique_ptr<sandbox::Runtime> runtime_;
  core::Keeper keeper_;
  NodeUsage told_usage_;
  Instant told_usage_at_{};
  io::TaskGroup tasks_;
  io::WakeupTimer timer_;
  std::unique_ptr<rpc::WorkerClient> client_;
  std::unique_ptr<io::HttpServer> admin_;
  bool is_joined_ = false;
  bool stopping_ = false;
  std::optional<NodeImages> told_images_;  // to the control plane of this session
  std::map<std::string, std::string> failed_prefetches_;
  std::uint64_t launches_ = 0;
  std::uint64_t launch_failures_ = 0;
  Histogram launch_times_;
  struct StartTimes {  // of sandboxes that became ready
    Histogram create, network, start, probe;
    void record(const StartPhases& phases) {
      create.record(phases.create);
      network.record(phases.network);
      start.record(phases.start);
      probe.record(phases.probe);
    }
  } start_times_;
};

io::Task<void> WorkerRoleImpl::open() {
  runtime_->on_end([this](SandboxId id, SandboxEnd end) {
    core::KeeperEffects effects;
    keeper_.ended(id, end, io::Loop::now(), effects);
    perform(std::move(effects));
  });
  Status opened = co_await runtime_->open();
  if (!opened) co_return opened;
  for (auto& adopted : runtime_->take_adopted()) {
    core::Keeper::LaunchedAt at{std::move(adopted.address), adopted.phases, std::move(adopted.image_digest)};
    at.address.host_id = options_.node.host_id;
    keeper_.adopt(std::move(adopted.order), std::move(at), adopted.launched_at, adopted.is_ready, io::Loop::now());
  }
  timer_.arm(keeper_.next_wakeup());
  options_.node.runtime = runtime_->name();
  if (!options_.admin_listen.empty()) {
    io::HttpServerOptions http;
    http.listen = options_.admin_listen;
    auto handler = [this](io::HttpRequest request) { return answer(std::move(request)); };
    auto served = io::serve_http(loop_, http, handler);
    if (!served) {
      [[maybe_unused]] Status closed = co_await runtime_->close();
      co_return failure(served.error());
    }
    admin_ = std::move(*served);
  }
  rpc::ClientOptions client;
  for (const auto& address : options_.control) client.control.push_back({address});
  client_ = rpc::connect_worker(loop_, std::move(client), *this);
  tasks_.spawn(heartbeat());
  co_return Status{};
}

// --- effects ------------------------------------------------------------------------------------------------------

void WorkerRoleImpl::perform(core::KeeperEffects effects) {
  for (auto& message : effects.messages) {
    const auto* changed = std::get_if<SandboxChanged>(&message);
    if (changed != nullptr && changed->status.state == SandboxState::ready) start_times_.record(changed->status.phases);
    client_->send(std::move(message));
  }
  for (auto& launch_effect : effects.launches) tasks_.spawn(launch(std::move(launch_effect.order)));
  for (auto& probe_effect : effects.probes) tasks_.spawn(probe(std::move(probe_effect)));
  for (auto& image : effects.prefetches) tasks_.spawn(prefetch(std::move(image)));
  for (auto& removal : effects.removals) tasks_.spawn(remove(removal));
  timer_.arm(keeper_.next_wakeup());
}

void WorkerRoleImpl::tick() {
  core::KeeperEffects effects;
  keeper_.tick(io::Loop::now(), effects);
  perform(std::move(effects));
}

io::Action WorkerRoleImpl::launch(StartSandbox order) {
  const SandboxId id = order.id;
  const bool is_tar = order.spec.image.starts_with("tar:");
  const Instant began = io::Loop::now();
  ++launches_;
  DIRIGENT_FAULT_POINT("worker.before_launch");
  Result<sandbox::Launched> launched = co_await runtime_->launch(std::move(order));
  DIRIGENT_FAULT_POINT("worker.launched");
  core::KeeperEffects effects;
  Result<core::Keeper::LaunchedAt> outcome;
  if (launched) {
    launch_times_.record(io::Loop::now() - began);
    if (!launched->image_digest.empty() || is_tar) tasks_.spawn(tell_images());
    outcome = core::Keeper::LaunchedAt{std::move(launched->address), launched->phases, std::move(launched->image_digest)};
    outcome->address.host_id = options_.node.host_id;
  } else {
    ++launch_failures_;
    log_warn("worker", "cannot launch sandbox {}: {}", to_string(id), launched.error().message);
    outcome = tl::unexpected<Error>(launched.error());
  }
  keeper_.launched(id, std::move(outcome), io::Loop::now(), effects);
  perform(std::move(effects));
}

io::Action WorkerRoleImpl::probe(core::KeeperEffects::Probe probe) {
  Result<bool> answered = co_await runtime_->probe(probe.id, std::move(probe.ready_path), probe.timeout);
  DIRIGENT_FAULT_POINT("worker.before_ready");
  core::KeeperEffects effects;
  keeper_.probed(probe.id, answered.has_value() && *answered, io::Loop::now(), effects);
  perform(std::move(effects));
}

io::Action WorkerRoleImpl::remove(core::KeeperEffects::Remove removal) {
  DIRIGENT_FAULT_POINT("worker.before_remove");
  Status status = co_await runtime_->remove(removal.id, removal.grace);
  DIRIGENT_FAULT_POINT("worker.removed");
  if (!status) log_error("worker", "cannot remove sandbox {}: {}", to_string(removal.id), status.error().message);
  core::KeeperEffects effects;
  keeper_.removed(removal.id, io::Loop::now(), effects);
  perform(std::move(effects));
}

void WorkerRoleImpl::say_usage(bool even_the_same) {
  NodeHeartbeat beat;
  beat.usage.used = measure_usage();
  beat.usage.sandboxes = static_cast<std::uint32_t>(keeper_.size());
  // A call from each of thousands of nodes, for a figure that people look at: not for what they would not see.
  const auto is_close = [](std::int64_t a, std::int64_t b, std::int64_t capacity) { return std::abs(a - b) * 50 <= capacity; };
  const NodeUsage& told = told_usage_;
  const bool is_news = beat.usage.sandboxes != told.sandboxes || !is_close(beat.usage.used.cpu.value, told.used.cpu.value, options_.node.capacity.cpu.value) ||
                       !is_close(beat.usage.used.memory.value, told.used.memory.value, options_.node.capacity.memory.value);
  const Instant now = io::Loop::now();
  if (!even_the_same && !is_news && now - told_usage_at_ < kUsageIntervalMax) return;
  told_usage_ = beat.usage;
  told_usage_at_ = now;
  client_->send(beat);
}

io::Action WorkerRoleImpl::prefetch(std::string image) {
  constexpr std::size_t kFailuresMax = 16;
  std::string name = image;
  Status done = co_await runtime_->prefetch(std::move(image));
  failed_prefetches_.erase(name);
  if (!done) {
    log_warn("worker", "cannot prefetch {}: {}", name, done.error().message);
    if (failed_prefetches_.size() >= kFailuresMax) failed_prefetches_.erase(failed_prefetches_.begin());
    failed_prefetches_[name] = done.error().message;
  }
  told_images_.reset();  // whoever asked waits for a word, even if it is the same
  co_await tell_images();
}

io::Action WorkerRoleImpl::tell_images() {
  Result<std::vector<std::string>> names = co_await runtime_->images();
  if (!names || !is_joined_) co_return;
  NodeImages images{std::move(*names), failed_prefetches_};
  if (told_images_ == images) co_return;
  told_images_ = images;
  client_->send(std::move(images));
}

io::Action WorkerRoleImpl::heartbeat() {
  Rng rng(entropy_seed());
  for (;;) {
    // Not all nodes of a cluster that was started at once in the same moment.
    const Duration pause = kUsageInterval / 2 + Duration(static_cast<Duration::rep>(rng.unit() * static_cast<double>(kUsageInterval.count())));
    Status slept = co_await io::sleep_for(loop_, pause);
    if (!slept) co_return;
    if (is_joined_) say_usage(false);
  }
}

rpc::LogAnswer WorkerRoleImpl::logs(rpc::LogQuery query) {
  rpc::LogAnswer answer;
  for (auto& line : runtime_->logs(query.sandbox, query.lines_max)) {
    answer.lines.push_back({line.time.time_since_epoch().count(), line.is_error_stream, std::move(line.text)});
  }
  return answer;
}

// --- stop ---------------------------------------------------------------------------------------------------------

// The control plane takes the sandboxes out of the routes and stops each one that has nothing in flight any more; what
// is left after the drain time, or without a control plane, is ended here.
io::Action WorkerRoleImpl::stop(Duration drain) {
  stopping_ = true;
  if (is_joined_) client_->send(WorkerLeaving{});
  // Data planes send requests here until a control plane tells them not to. While another one takes over the lead, nobody does.
  const Instant drained_by = io::Loop::now() + drain;
  Instant heard = io::Loop::now();
  while (keeper_.size() > 0 && io::Loop::now() < drained_by) {
    if (is_joined_) heard = io::Loop::now();
    if (io::Loop::now() - heard >= kLeaderPatience) break;
    [[maybe_unused]] Status slept = co_await io::sleep_for(loop_, 5ms);
  }
  core::KeeperEffects effects;
  keeper_.stop_all(io::Loop::now(), effects);
  perform(std::move(effects));
  const Instant deadline = io::Loop::now() + options_.stop_grace + 5s;
  while (keeper_.size() > 0 && io::Loop::now() < deadline) {
    [[maybe_unused]] Status slept = co_await io::sleep_for(loop_, 2ms);
  }
  co_await client_->close(1s);
  if (admin_) co_await admin_->close(0s);
  timer_.arm(std::nullopt);
  tasks_.cancel();
  co_await tasks_.wait();
  Status closed = co_await runtime_->close();
  if (!closed) log_error("worker", "node {}: {}", options_.node.id, closed.error().message);
}

// --- the admin port -----------------------------------------------------------------------------------------------

asio::awaitable<io::HttpResponse, asio::io_context::executor_type> WorkerRoleImpl::answer(io::HttpRequest request) {
  const std::string path(request.path());
  if (path == "/healthz" || path == "/livez") co_return io::text_response(200, "ok\n");
  if (path == "/readyz") {
    if (stopping_) co_return io::text_response(503, "stopping\n");
    if (!is_joined_) co_return io::text_response(503, "not joined: no control plane answers\n");
    co_return io::text_response(200, "ok\n");
  }
  if (path == "/metrics") co_return io::prometheus_response(metrics());
  co_return io::text_response(404, "not found: this port has /healthz, /readyz and /metrics\n");
}

std::string WorkerRoleImpl::metrics() const {
  io::PrometheusWriter writer;
  const std::string& node = options_.node.id.value;
  writer.gauge("dirigent_build_info", "Always 1; the version is a label.", 1, {{"version", options_.node.version}, {"role", "worker"}});
  writer.gauge("dirigent_worker_sandboxes", "Sandboxes kept.", static_cast<double>(keeper_.size()), {{"node", node}});
  writer.counter("dirigent_worker_launches_total", "Launches begun.", static_cast<double>(launches_), {{"node", node}});
  writer.counter("dirigent_worker_launch_failures_total", "Launches that failed.", static_cast<double>(launch_failures_), {{"node", node}});
  static constexpr double kBounds[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5};
  writer.histogram("dirigent_worker_launch_seconds", "Order to running process.", launch_times_, kBounds, {{"node", node}});
  const std::pair<std::string_view, const Histogram*> phases[] = {{"create", &start_times_.create},
                                                                  {"network", &start_times_.network},
                                                                  {"start", &start_times_.start},
                                                                  {"probe", &start_times_.probe}};
  for (const auto& [phase, times] : phases) {
    writer.histogram("dirigent_sandbox_create_seconds", "Order to ready, by phase.", *times, kBounds,
                     {{"node", node}, {"runtime", runtime_->name()}, {"phase", phase}});
  }
  write_link_metrics(writer, client_->counters(), "control");
  return writer.take();
}

}  // namespace

io::Task<std::unique_ptr<WorkerRole>> WorkerRole::start(io::Loop& loop, WorkerRoleOptions options,
                                                        std::unique_ptr<sandbox::Runtime> runtime) {
  auto role = std::make_unique<WorkerRoleImpl>(loop, std::move(options), std::move(runtime));
  Status opened = co_await role->open();
  if (!opened) co_return failure(opened.error());
  std::unique_ptr<WorkerRole> started = std::move(role);
  co_return started;
}

Resources machine_capacity() {
  Resources capacity;
  cpu_set_t set;
  CPU_ZERO(&set);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(online);
  capacity.cpu = Millicpu{cpus * 1000L};
  const std::int64_t machine = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  capacity.memory = Bytes{machine};
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    std::string text;
    if (!(file >> text)) continue;
    const auto limit = parse_integer(text);
    if (limit && *limit > 0 && *limit < machine) capacity.memory = Bytes{*limit};
  }
  return capacity;
}

NodeId machine_node_id() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return NodeId{"node"};
  std::string id(name);
  for (char& c : id) {
    const bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!fine) c = '-';
  }
  if (id.empty()) id = "node";
  id.resize(std::min<std::size_t>(id.size(), 64));
  return NodeId{id};
}

}  // namespace dirigent::roles
