// SPDX-License-Identifier: MIT
#include "dirigent/sandbox/process_runtime.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "sandbox/process/images.h"
#include "sandbox/process/prober.h"
#include "sandbox/process/runtime_impl.h"
#include "sandbox/process/trees.h"

namespace dirigent::sandbox {

namespace {

constexpr std::uint32_t kFirstUid = 200'000;
constexpr std::size_t kHelperThreads = 3;
// Starts at a time: 130 cold calls in one instant on two CPUs had p50 89 to 130 ms all at once and 71 to 85 ms eight at a
// time, the last one no later; with four the last one was.
constexpr std::size_t kStartsForEachCpu = 4;
constexpr Duration kLinkPatience = 5s;
constexpr Duration kKillPatience = 10s;

Duration us(std::uint32_t value) { return std::chrono::microseconds(value); }

Status forward_packets() {
  constexpr const char* kPath = "/proc/sys/net/ipv4/ip_forward";
  std::ifstream now(kPath);
  if (char digit = '0'; now.get(digit) && digit != '0') return {};
  std::ofstream next(kPath);
  next << "1" << std::flush;
  if (!next)
    return failure(ErrorCode::permission_denied,
                   "cannot switch on {}: published sandboxes would not be reachable (run as root, or set it yourself)",
                   kPath);
  return {};
}

// A sandbox takes four descriptors: its control socket, its output, its network namespace.
Status allow_descriptors(std::uint32_t sandboxes) {
  constexpr rlim_t kForTheRest = 512;
  const rlim_t wanted = 4 * rlim_t{sandboxes} + kForTheRest;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_failure(errno, "cannot read the limit of open files");
  if (limit.rlim_cur >= wanted) return {};
  limit.rlim_cur = std::min(limit.rlim_max, wanted);
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_failure(errno, "cannot raise the limit of open files");
  if (limit.rlim_cur >= wanted) return {};
  return failure(ErrorCode::exhausted, "the limit of {} open files is enough for some {} sandboxes, not for {}: raise it (ulimit -Hn)",
                 limit.rlim_cur, limit.rlim_cur > kForTheRest ? (limit.rlim_cur - kForTheRest) / 4 : 0, sandboxes);
}

std::string identity_of(const ProcessRuntimeOptions& options, bool full) {
  // Whoever must not take over has an identity that nobody else has.
  return adoption_identity(options.adopt_time > Duration::zero()
                               ? fmt::format("process {} {}", full ? "full" : "user", options.publish_host)
                               : fmt::format("nobody {}", ::getpid()));
}

// A port that nothing listens on now. Between this and the function's own bind another process may take it; the launch
// then fails and is repeated.
Result<std::uint16_t> free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno_failure(errno, "cannot make a socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool worked = ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  const int error = errno;
  ::close(fd);
  if (!worked) return errno_failure(error, "cannot find a free port on 127.0.0.1");
  return ntohs(address.sin_port);
}

}  // namespace

std::unique_ptr<Runtime> make_process_runtime(io::Loop& loop, ProcessRuntimeOptions options) {
  return std::make_unique<ProcessRuntime>(loop, std::move(options));
}

ProcessRuntime::ProcessRuntime(io::Loop& loop, ProcessRuntimeOptions options)
    : loop_(loop),
      options_(std::move(options)),
      images_(std::make_shared<ImageStore>(options_.images)),
      group_(loop, "sandbox"),
      starts_(loop, options_.starts_at_a_time > 0 ? options_.starts_at_a_time : kStartsForEachCpu * std::max(1U, std::thread::hardware_concurrency()), options_.turn_patience),
      spawner_socket_(loop.context().get_executor()) {}

ProcessRuntime::~ProcessRuntime() {
  ASSERT(!opened_, "the process runtime of node {} was not closed", options_.node.value);
}

Result<ProcessRuntime::Opened> ProcessRuntime::open_parts(const ProcessRuntimeOptions& options, bool full) {
  Opened parts;
  auto claim = claim_node(options.node.value, identity_of(options, full));
  if (!claim) return failure(claim.error());
  parts.node_lock = std::move(claim->lock);
  parts.handover = std::move(claim->handover);
  if (!full) {
    parts.weaknesses = {
        "sandboxes share the host's network and can connect wherever this user can: run the worker as root for a "
        "network of their own",
        "all sandboxes run as the worker's own user, kept apart by user, mount and pid namespaces only: run the worker "
        "as root for a user each",
        "memory, cpu and process limits are not enforced: run the worker as root",
    };
    return parts;
  }
  parts.cgroups = Cgroups::open(options.node.value, names_of(parts.handover));
  parts.weaknesses = parts.cgroups.weaknesses();
  auto network = parts.handover ? Network::take_over(std::move(parts.handover->range_lock), parts.handover->configuration.gateway)
                                : Network::open(options.node.value);
  if (!network) return failure(network.error());
  parts.network = std::move(*network);
  const auto tables = Firewall::names(parts.network->range(), !options.publish_host.empty());
  auto firewall = Firewall::open(tables, parts.network->link_prefix(), published_of(parts.handover, *parts.network));
  if (Status enough = allow_descriptors(options.sandboxes_max); !enough) parts.weaknesses.push_back(enough.error().message);
  if (firewall) {
    parts.firewall = std::move(*firewall);
  } else if (!options.publish_host.empty()) {
    parts.network->remove_gateway();
    return failure(firewall.error().within("cannot publish sandboxes"));
  } else {
    parts.weaknesses.push_back(
        "sandboxes can reach services of this host and, where it forwards packets, each other: " +
        firewall.error().message);
  }
  if (!options.publish_host.empty()) {
    if (Status status = forward_packets(); !status) {
      parts.firewall->close();
      parts.network->remove_gateway();
      return failure(status.error());
    }
  }
  return parts;
}

io::Task<void> ProcessRuntime::open() {
  full_ = options_.isolation == ProcessIsolation::full ||
          (options_.isolation == ProcessIsolation::automatic && ::geteuid() == 0);
  if (!full_ && !options_.publish_host.empty())
    co_return failure(ErrorCode::unsupported, "sandboxes can be published only by a worker that runs as root");
  helpers_ = std::make_unique<Helpers>(loop_, kHelperThreads);
  auto open_all = [options = options_, full = full_] { return open_parts(options, full); };
  auto parts = co_await helpers_->run(std::move(open_all));
  if (!parts) {
    helpers_.reset();
    co_return failure(parts.error().within("cannot open the process runtime"));
  }
  node_lock_ = std::move(parts->node_lock);
  cgroups_ = std::move(parts->cgroups);
  network_ = std::move(parts->network);
  firewall_ = std::move(parts->firewall);
  weaknesses_ = std::move(parts->weaknesses);
  next_serial_ = static_cast<std::uint32_t>(entropy_seed() & 0xffffff);
  // 0 is the range's own name, 1 the gateway, the last one is left out as a broadcast address would be.
  for (std::uint32_t number = 2; number < kRangeSize - 1; ++number) numbers_.push_back(number);
  for (std::uint32_t port = options_.publish_port_first; port <= options_.publish_port_last; ++port)
    published_ports_.push_back(static_cast<std::uint16_t>(port));
  Status status = lodgings_.open(cgroups_, network_.get());
  if (status && parts->handover) adopt(std::move(*parts->handover));
  else if (status) status = start_spawner();
  if (!status) {
    if (firewall_) firewall_->close();
    if (network_) network_->remove_gateway();
    helpers_.reset();
    co_return status;
  }
  opened_ = true;
  spawner_socket_.assign(spawner_.socket());
  read_spawner();
  group_.spawn(tend_pool());
  refill();
  co_return Status{};
}

Status ProcessRuntime::start_spawner() {
  auto spawner = Spawner::start();
  if (!spawner) return failure(spawner.error());
  wire::Configure configuration;
  configuration.cgroup_dirs = cgroups_.node_directories();
  configuration.isolation = full_ ? wire::Isolation::full : wire::Isolation::user;
  configuration.tmp_bytes = static_cast<std::uint64_t>(options_.tmp_max.value);
  configuration.node = options_.node.value;
  configuration.identity = identity_of(options_, full_);
  configuration.adopt_ms = static_cast<std::uint32_t>(options_.adopt_time / 1ms);
  std::vector<int> locks{node_lock_.fd()};
  if (network_) {
    configuration.gateway = network_->gateway();
    locks.push_back(network_->lock_fd());
  }
  if (firewall_) {
    const auto tables = Firewall::names(network_->range(), !options_.publish_host.empty());
    configuration.nft_table = tables.filter;
    configuration.nft_publish_table = tables.publish;
  }
  wire::Writer message(wire::Kind::configure);
  configuration.write(message);
  if (Status status = spawner->send(message, locks); !status) return status;
  spawner_ = std::move(*spawner);
  return {};
}

Result<std::uint16_t> ProcessRuntime::choose_port(const StartSandbox& order) const {
  if (network_) return order.spec.port;
  return free_port();
}

io::Task<Launched> ProcessRuntime::launch(StartSandbox order) {
  const Instant began = io::Loop::now();
  ASSERT(opened_, "launch() before open()");
  if (closing_) co_return failure(ErrorCode::unavailable, "the worker is stopping");
  if (by_id_.contains(order.id))
    co_return failure(ErrorCode::already_exists, "sandbox {} is there already", to_string(order.id));
  if (by_id_.size() >= options_.sandboxes_max)
    co_return failure(ErrorCode::exhausted, "this worker has {} sandboxes, its limit", by_id_.size());
  auto port = choose_port(order);
  if (!port) co_return failure(port.error());
  ImageSettings settings{options_.node.value, images_, options_.tmp_max};
  Result<PreparedOrder> prepared;
  const auto trees = std::make_shared<std::vector<io::FileDescriptor>>();
  if (order.spec.image.starts_with("builtin:")) {
    prepared = make_order(order, *port, settings);
  } else {
    // Without root, cells have the host's files and look for themselves.
    auto look = [order, port = *port, settings, trees, full = full_]() -> Result<PreparedOrder> {
      auto made = make_order(order, port, settings);
      if (!made || !full) return made;
      auto opened = open_trees(made->wire);
      if (!opened) return failure(opened.error());
      *trees = std::move(*opened);
      return made;
    };
    prepared = co_await helpers_->run(std::move(look));
  }
  if (!prepared) co_return failure(prepared.error());
  StartPhases phases;
  phases.create = io::Loop::now() - began;
  const Instant waiting_since = io::Loop::now();
  std::string function = order.function.value;
  auto cell = co_await take_cell(std::move(function), began + options_.start_timeout);
  if (!cell) co_return failure(cell.error());
  // Zero when a parked cell was there: its network was made before anybody asked.
  phases.network = io::Loop::now() - waiting_since;
  if (by_id_.contains(order.id)) {
    if ((*cell)->state == CellState::parked) parked_.push_front(*cell);
    co_return failure(ErrorCode::already_exists, "sandbox {} is there already", to_string(order.id));
  }
  if ((*cell)->state != CellState::parked || closing_)
    co_return failure(ErrorCode::unavailable, "the cell ended before it was used (try again)");
  (*cell)->image = std::move(prepared->image);
  co_return co_await run_order(*cell, std::move(order), std::move(prepared->wire), *trees, phases);
}

// `trees` stay the caller's.
io::Task<Launched> ProcessRuntime::run_order(CellPtr cell, StartSandbox order, wire::Order wire_order,
                                             std::vector<io::FileDescriptor>& trees, StartPhases phases) {
  const Instant began = io::Loop::now();
  cell->id = order.id;
  cell->function = order.function.value;
  cell->state = CellState::ordered;
  by_id_[order.id] = cell;
  auto waited = co_await starts_.wait(began + options_.start_timeout);
  if (!waited) {
    kill(cell);
    co_return failure(waited.error().within("the sandbox did not start"));
  }
  std::optional<Turns::Turn> turn(std::move(*waited));
  // Its lodging is not its own any more then.
  if (cell->state == CellState::ended)
    co_return failure(ErrorCode::unavailable, "the sandbox did not start: {}", cell->end->detail);
  const CgroupLimits limits{order.spec.resources.memory, order.spec.resources.cpu, order.spec.cpu_limit,
                            order.spec.pids_max};
  Lodging& lodging = *cell->lodging;
  Status limited;
  if (lodging.limits != limits) limited = cgroups_.set_limits(lodging.cgroup, limits, lodging.limits);
  if (!limited) {
    lodging.limits.reset();
    kill(cell);
    co_return failure(limited.error().within("cannot limit the sandbox"));
  }
  lodging.limits = limits;
  usual_limits_ = limits;
  const std::uint32_t range = network_ ? network_->range() : 0;
  wire_order.uid = full_ ? kFirstUid + range * kRangeSize + lodging.number : 1000;
  wire_order.loopback_only = network_ ? 0 : 1;
  const std::string host = network_ ? to_dotted(network_->address_of(lodging.number)) : "127.0.0.1";
  cell->direct = fmt::format("{}:{}", host, wire_order.port);
  wire::Writer message(wire::Kind::order);
  wire_order.write(message);
  const auto changed = cell->changed;
  std::vector<int> fds;
  for (const auto& tree : trees) fds.push_back(tree.get());
  const int sent = wire::send_message(cell->control.native_handle(), message.bytes(), fds.data(), static_cast<int>(fds.size()));
  trees.clear();
  if (sent != 0) {
    kill(cell);
    co_return errno_failure(sent, "cannot give the order to a cell");
  }
  refill();
  Status started;
  try {
    started = co_await changed->wait(began + options_.start_timeout);
  } catch (const std::system_error&) {
    started = failure(ErrorCode::cancelled, "cancelled");
  }
  turn.reset();
  note_launches();
  if (!started || cell->has_failed || (cell->state == CellState::ended && cell->root_us == 0)) {
    Error error = !started           ? started.error().within("the sandbox did not start")
                  : cell->has_failed ? cell->error
                                     : Error{ErrorCode::unavailable, "the sandbox did not start: " + cell->end->detail};
    kill(cell);
    if (started) static_cast<void>(co_await cell->gone.wait(io::Loop::now() + kKillPatience));
    co_return failure(std::move(error));
  }
  phases.create += us(cell->root_us);
  // What neither the root nor the wait for a cell explains belongs to the start.
  phases.start = io::Loop::now() - began - us(cell->root_us);
  Launched launched;
  if (firewall_ && !options_.publish_host.empty() && cell->state != CellState::ended) {
    if (Status published = co_await publish(cell, static_cast<std::uint16_t>(wire_order.port)); !published) {
      kill(cell);
      co_return failure(published.error());
    }
    launched.address.published = fmt::format("{}:{}", options_.publish_host, cell->published_port);
  }
  launched.address.direct = cell->direct;
  launched.address.host_id = options_.host_id;
  launched.phases = phases;
  // Only references have digests that mean something on other nodes.
  if (const auto image = parse_image(order.spec.image); image && image->kind == ImageKind::reference && cell->image)
    launched.image_digest = cell->image->digest;
  cell->launched = true;
  keep(cell, order, launched);
  // Already over: told in a later turn, so that the caller knows the sandbox before it hears of its end.
  if (cell->state == CellState::ended) loop_.post([this, cell] { tell_end(cell); });
  co_return launched;
}

io::Task<void> ProcessRuntime::publish(CellPtr cell, std::uint16_t port) {
  if (published_ports_.empty())
    co_return failure(ErrorCode::exhausted, "every port of {}..{} is published already", options_.publish_port_first,
                      options_.publish_port_last);
  const std::uint16_t outer = published_ports_.front();
  published_ports_.pop_front();
  auto add = [this, outer, port, host = to_dotted(network_->address_of(cell->lodging->number))] {
    return firewall_->publish(outer, host, port);
  };
  Status added = co_await helpers_->run(std::move(add));
  if (!added) {
    published_ports_.push_back(outer);
    co_return failure(added.error().within("cannot publish the sandbox"));
  }
  if (cell->state == CellState::ended) {
    // Its clean-up has passed already.
    helpers_->submit([this, outer] { firewall_->unpublish(outer); });
    published_ports_.push_back(outer);
    co_return failure(ErrorCode::unavailable, "the function ended before it could be published: {}", cell->end->detail);
  }
  cell->published_port = outer;
  co_return Status{};
}

io::Task<void> ProcessRuntime::prefetch(std::string text) {
  auto image = parse_image(text);
  if (!image) co_return failure(image.error());
  if (image->kind != ImageKind::tar && image->kind != ImageKind::reference) co_return Status{};
  auto get = [store = images_, image = std::move(*image)]() -> Status {
    auto lease = image.kind == ImageKind::tar ? store->tar(image.location) : store->pull(image.location);
    return lease ? Status{} : Status(failure(lease.error()));
  };
  co_return co_await helpers_->run(std::move(get));
}

io::Task<std::vector<std::string>> ProcessRuntime::images() {
  auto look = [store = images_]() -> Result<std::vector<std::string>> { return store->names(); };
  co_return co_await helpers_->run(std::move(look));
}

io::Task<void> ProcessRuntime::remove(SandboxId id, Duration grace) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) co_return Status{};
  const CellPtr cell = found->second;
  if (cell->state != CellState::ended) {
    cell->stop_requested = true;
    const bool can_be_asked = cell->state == CellState::running && grace > Duration::zero();
    if (can_be_asked)
      static_cast<void>(wire::send_message(cell->control.native_handle(), wire::Writer(wire::Kind::terminate).bytes()));
    Status ended_by_itself = failure(ErrorCode::timed_out, "not asked");
    if (can_be_asked) ended_by_itself = co_await cell->gone.wait(io::Loop::now() + grace);
    if (!ended_by_itself) kill(cell);
  }
  Status gone = co_await cell->gone.wait(io::Loop::now() + kKillPatience);
  if (!gone) co_return failure(gone.error().within(fmt::format("sandbox {} does not end", to_string(id))));
  co_return Status{};
}

io::Task<bool> ProcessRuntime::probe(SandboxId id, std::string ready_path, Duration timeout) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end() || found->second->state != CellState::running) co_return false;
  std::string address = found->second->direct;
  Result<bool> answered = co_await probe_address(loop_, std::move(address), std::move(ready_path), timeout);
  // It may have ended meanwhile; then whatever answered was not it.
  const auto still = by_id_.find(id);
  if (still == by_id_.end() || still->second->state != CellState::running) co_return false;
  if (answered && *answered) note_ready(still->second);
  co_return answered;
}

std::vector<LogLine> ProcessRuntime::logs(SandboxId id, std::size_t lines_max) const {
  if (const auto found = by_id_.find(id); found != by_id_.end()) return found->second->logs->newest(lines_max);
  return kept_logs_.newest(id, lines_max);
}

io::Task<void> ProcessRuntime::close() {
  if (!opened_ || closing_) co_return Status{};
  closing_ = true;
  images_->stop();
  group_.cancel();
  for (const auto& waiter : std::exchange(waiters_, {})) {
    waiter->error = Error{ErrorCode::unavailable, "the worker is stopping"};
    waiter->signal.set();
  }
  co_await group_.wait();
  empty_ = std::make_shared<Signal>(loop_);
  for (const auto& [serial, cell] : by_serial_) {
    cell->stop_requested = true;
    kill(cell);
  }
  if (!by_serial_.empty()) static_cast<void>(co_await empty_->wait(io::Loop::now() + kKillPatience));
  auto demolish_all = [this]() -> Status {
    for (const auto& lodging : vacant_) lodgings_.demolish(*lodging);
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(demolish_all)));
  vacant_.clear();
  // The gateway goes first: the spawner takes one that is still there for a sign that the worker was killed.
  auto remove_gateway = [this]() -> Status {
    if (network_) network_->remove_gateway();
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(remove_gateway)));
  // Closing the socket makes the spawner remove whatever is left; it holds the locks until it has.
  spawner_socket_.release();
  auto finish = [this]() -> Status {
    spawner_.stop();
    if (firewall_) firewall_->close();
    if (network_) network_->wait_for_links(kLinkPatience);
    return {};
  };
  Status finished = co_await helpers_->run(std::move(finish));
  // Every process is gone now; whatever the spawner had no time to report is told here.
  std::vector<CellPtr> unreported;
  for (const auto& [serial, cell] : by_serial_) unreported.push_back(cell);
  for (const auto& cell : unreported) ended(cell, std::nullopt);
  while (!by_serial_.empty()) {
    empty_ = std::make_shared<Signal>(loop_);
    if (Status emptied = co_await empty_->wait(Instant::max()); !emptied) break;
  }
  firewall_.reset();
  network_.reset();
  node_lock_ = NameLock();
  opened_ = false;
  helpers_.reset();
  co_return finished;
}

}  // namespace dirigent::sandbox
