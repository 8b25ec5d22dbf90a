// SPDX-License-Identifier: MIT
#include "sandbox/oci/container_runtime.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "sandbox/process/images.h"
#include "sandbox/process/prober.h"

namespace dirigent::sandbox {

namespace {

constexpr std::uint32_t kFirstUid = 200'000;
// 32 ranges of 4096 sandboxes with 4096 ids each: up to 0x60000000, which no allocation of the host's tools reaches.
constexpr std::uint32_t kFirstNamespaceId = 0x40000000;
constexpr std::size_t kHelperThreads = 2;
constexpr std::size_t kImageThreads = 2;
constexpr Duration kLinkPatience = 5s;
constexpr Duration kKillPatience = 10s;

Status forward_packets() {
  constexpr const char* kPath = "/proc/sys/net/ipv4/ip_forward";
  std::ifstream now(kPath);
  if (char digit = '0'; now.get(digit) && digit != '0') return {};
  std::ofstream next(kPath);
  next << "1" << std::flush;
  if (!next)
    return failure(ErrorCode::permission_denied, "cannot switch on {}: published sandboxes would not be reachable", kPath);
  return {};
}

// The node's directory in every hierarchy, also in those that only runc and containerd write to.
std::vector<std::string> cgroup_directories(const std::string& node) {
  std::vector<std::string> found;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto words = split(line, ' ');
    if (words.size() > 5 && line.find(" - cgroup") != std::string::npos)
      found.push_back(std::string(words[4]) + "/dirigent/" + node);
  }
  return found;
}

Result<Spawner> start_guard(const ContainerOptions& options, const Network& network, const NameLock& lock,
                            bool has_firewall, const std::string& identity,
                            std::vector<std::string> mounts) {
  auto guard = Spawner::start();
  if (!guard) return guard;
  wire::Configure configuration;
  configuration.cgroup_dirs = cgroup_directories(options.node.value);
  configuration.gateway = network.gateway();
  configuration.node = options.node.value;
  configuration.identity = identity;
  configuration.mounts = std::move(mounts);
  configuration.adopt_ms = static_cast<std::uint32_t>(options.adopt_time / 1ms);
  if (has_firewall) {
    const auto tables = Firewall::names(network.range(), !options.publish_host.empty());
    configuration.nft_table = tables.filter;
    configuration.nft_publish_table = tables.publish;
  }
  wire::Writer message(wire::Kind::configure);
  configuration.write(message);
  const std::vector<int> locks{lock.fd(), network.lock_fd()};
  if (Status sent = guard->send(message, locks); !sent) return failure(sent.error());
  return guard;
}

}  // namespace

ContainerRuntime::ContainerRuntime(io::Loop& loop, ContainerOptions options, std::unique_ptr<Engine> engine)
    : loop_(loop),
      options_(std::move(options)),
      engine_(std::move(engine)),
      images_(std::make_shared<ImageStore>(options_.images)),
      group_(loop, "containers"),
      starts_(loop, std::max<std::size_t>(1, options_.starts_max)) {}

ContainerRuntime::~ContainerRuntime() {
  ASSERT(!opened_, "the {} runtime of node {} was not closed", engine_->name(), options_.node.value);
}

Result<ContainerRuntime::Opened> ContainerRuntime::open_parts(const ContainerOptions& options, const std::string& identity,
                                                                const std::vector<std::string>& mounts) {
  Opened parts;
  if (!options.cni.configuration.empty()) {
    auto cni = CniNetwork::open(options.cni, options.node.value);
    if (!cni) return failure(cni.error());
    parts.cni = std::move(*cni);
  }
  auto claim = claim_node(options.node.value, identity);
  if (!claim) return failure(claim.error());
  parts.node_lock = std::move(claim->lock);
  parts.handover = std::move(claim->handover);
  if (parts.handover) {
    const auto kept = names_of(parts.handover);
    for (const auto& directory : cgroup_directories(options.node.value)) clear_cgroups(directory, kept);
  }
  parts.cgroups = Cgroups::open(options.node.value, names_of(parts.handover));
  parts.weaknesses = parts.cgroups.weaknesses();
  auto network = parts.handover ? Network::take_over(std::move(parts.handover->range_lock), parts.handover->configuration.gateway)
                                : Network::open(options.node.value);
  if (!network) return failure(network.error());
  parts.network = std::move(*network);
  if (parts.cni)
    parts.weaknesses.push_back(fmt::format(
        "what sandboxes can reach is decided by the CNI network \"{}\", not by this worker", parts.cni->name()));
  const bool publish = !options.publish_host.empty();
  const auto tables = Firewall::names(parts.network->range(), publish);
  auto firewall = Firewall::open(tables, parts.network->link_prefix(), published_of(parts.handover, *parts.network));
  const auto fail = [&](Error error) {
    // What waits for a worker goes on waiting.
    if (parts.handover) return failure(std::move(error));
    if (parts.firewall) parts.firewall->close();
    parts.network->remove_gateway();
    return failure(std::move(error));
  };
  if (firewall) {
    parts.firewall = std::move(*firewall);
  } else if (publish) {
    return fail(firewall.error().within("cannot publish sandboxes"));
  } else {
    parts.weaknesses.push_back(
        "sandboxes can reach services of this host and, where it forwards packets, each other: " +
        firewall.error().message);
  }
  if (Status forwarded = publish ? forward_packets() : Status{}; !forwarded) return fail(forwarded.error());
  if (parts.handover) {
    parts.guard = std::move(parts.handover->spawner);
    return parts;
  }
  auto guard = start_guard(options, *parts.network, parts.node_lock, parts.firewall != nullptr, identity, mounts);
  if (!guard) return fail(guard.error());
  parts.guard = std::move(*guard);
  return parts;
}

io::Task<void> ContainerRuntime::open() {
  if (::geteuid() != 0)
    co_return failure(ErrorCode::permission_denied, "the {} runtime needs root: run the worker as root, or use --runtime process",
                      engine_->name());
  helpers_ = std::make_unique<Helpers>(loop_, kHelperThreads);
  image_helpers_ = std::make_unique<Helpers>(loop_, kImageThreads);
  auto open_all = [options = options_, who = identity(), mounts = engine_->host_mounts()] { return open_parts(options, who, mounts); };
  auto parts = co_await helpers_->run(std::move(open_all));
  if (!parts) {
    helpers_.reset();
    image_helpers_.reset();
    co_return failure(parts.error().within(fmt::format("cannot open the {} runtime", engine_->name())));
  }
  node_lock_ = std::move(parts->node_lock);
  cgroups_ = std::move(parts->cgroups);
  network_ = std::move(parts->network);
  cni_ = std::move(parts->cni);
  firewall_ = std::move(parts->firewall);
  guard_ = std::move(parts->guard);
  weaknesses_ = std::move(parts->weaknesses);
  next_serial_ = static_cast<std::uint32_t>(entropy_seed() & 0xffffff);
  published_ports_.clear();
  for (std::uint32_t port = options_.publish_port_first; port <= options_.publish_port_last; ++port)
    published_ports_.push_back(static_cast<std::uint16_t>(port));
  std::vector<KeptContainer> kept;
  std::vector<std::uint32_t> numbers;
  std::vector<std::string> attachments;
  if (parts->handover) {
    for (const auto& one : parts->handover->kept) {
      attachments.push_back(one.record.attachment);
      kept.push_back({one.record.name, one.record.pid});
      numbers.push_back(one.record.number);
    }
  }
  if (Status opened = co_await engine_->open(cgroups_, std::move(kept)); !opened) {
    // Sandboxes that wait for a worker go on waiting for one that can be opened.
    auto take_down = [this, leaves = parts->handover.has_value()]() -> Status {
      if (leaves) guard_ = Spawner();
      else take_down_parts();
      return {};
    };
    static_cast<void>(co_await helpers_->run(std::move(take_down)));
    helpers_.reset();
    image_helpers_.reset();
    co_return failure(opened.error().within(fmt::format("cannot open the {} runtime", engine_->name())));
  }
  for (auto& weakness : engine_->weaknesses()) weaknesses_.push_back(std::move(weakness));
  networks_ = std::make_unique<NetworkPool>(loop_, *network_, cni_.get(), options_.networks, numbers);
  networks_->take_back_all_but(std::move(attachments));
  closing_ = false;
  if (parts->handover) adopt(std::move(*parts->handover));
  opened_ = true;
  co_return Status{};
}

// On a helper thread.
void ContainerRuntime::take_down_parts() {
  // The gateway goes first: the guard takes one that is still there for a sign that the worker was killed.
  network_->remove_gateway();
  guard_.stop();
  if (firewall_) firewall_->close();
  network_->wait_for_links(kLinkPatience);
  firewall_.reset();
  cni_.reset();
  network_.reset();
  node_lock_ = NameLock();
}

io::Task<ImageLease> ContainerRuntime::take_image(Image image, std::string digest) {
  if (image.kind == ImageKind::directory) {
    auto stored = std::make_shared<StoredImage>();
    struct stat status {};
    if (::stat(image.location.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
      co_return failure(ErrorCode::not_found, "cannot use {} as a root: there is no such directory on the worker's host",
                        image.location);
    stored->layers.push_back(image.location);
    co_return ImageLease(std::move(stored));
  }
  for (;;) {
    if (auto lease = images_->find(image.location, digest)) co_return lease;
    const auto found = image_work_.find(image.location);
    if (found == image_work_.end()) break;
    const auto work = found->second;
    if (Status waited = co_await work->wait(Instant::max()); !waited) co_return failure(waited.error());
    if (options_.images.pull == PullPolicy::always) break;
  }
  const auto done = std::make_shared<Signal>(loop_);
  image_work_[image.location] = done;
  auto unpack = [store = images_, image, digest = std::move(digest)] {
    return image.kind == ImageKind::tar ? store->tar(image.location) : store->pull(image.location, digest);
  };
  auto lease = co_await image_helpers_->run(std::move(unpack));
  if (const auto mine = image_work_.find(image.location); mine != image_work_.end() && mine->second == done)
    image_work_.erase(mine);
  done->set();
  co_return lease;
}

// Root is what most images name when they name nothing: it needs no look into the image, and has no home worth telling.
io::Task<ImageUser> ContainerRuntime::find_user(ImageLease image, std::string user) {
  if (user.empty() || user == "0" || user == "root") co_return ImageUser{};
  auto look = [image = std::move(image), user = std::move(user)] { return resolve_user(*image, user); };
  co_return co_await helpers_->run(std::move(look));
}

// Nobody is root, and nobody has another sandbox's ids: with a user namespace they are all the sandbox's own, without one
// whoever would be 0 gets an id that no other sandbox has. Other ids are the host's then.
void ContainerRuntime::become(ContainerSpec& spec, const ImageUser& user, std::uint32_t number) const {
  spec.uid = user.uid;
  spec.gid = user.gid;
  spec.groups = user.groups;
  if (options_.user_namespaces) {
    spec.id_base = kFirstNamespaceId + number * kIdsOfSandbox;
    return;
  }
  if (spec.uid == 0) spec.uid = kFirstUid + number;
  if (spec.gid == 0) spec.gid = kFirstUid + number;
  std::erase(spec.groups, 0u);
}

io::Task<Launched> ContainerRuntime::launch(StartSandbox order) {
  ASSERT(opened_, "launch() before open()");
  if (closing_) co_return failure(ErrorCode::unavailable, "the worker is stopping");
  if (by_id_.contains(order.id))
    co_return failure(ErrorCode::already_exists, "sandbox {} is there already", to_string(order.id));
  if (by_id_.size() >= options_.sandboxes_max)
    co_return failure(ErrorCode::exhausted, "this worker has {} sandboxes, its limit", by_id_.size());
  auto image = parse_image(order.spec.image);
  if (!image) co_return failure(image.error());
  if (image->kind == ImageKind::exec)
    co_return failure(ErrorCode::unsupported,
                      "the {} runtime cannot run \"{}\": use tar:, dir:, builtin: or a reference, or a worker with --runtime process",
                      engine_->name(), order.spec.image);
  auto container = std::make_shared<Container>(loop_);
  container->id = order.id;
  container->function = order.function.value;
  container->key = next_serial_++;
  container->name = fmt::format("c-{:x}", container->key);
  by_id_[order.id] = container;
  const auto launching = std::make_shared<Launching>(loop_);
  group_.spawn(carry_out(launching, container, order, std::move(*image)));
  Status waited;
  try {
    waited = co_await launching->done.wait(Instant::max());
  } catch (const std::system_error&) {
    waited = failure(ErrorCode::cancelled, "cancelled");
  }
  if (!waited) {
    container->abandoned = true;
    if (container->state == ContainerState::running) kill(container, SIGKILL);
    co_return failure(waited.error());
  }
  if (!launching->status) co_return failure(launching->status.error());
  Launched launched;
  launched.address.direct = container->direct;
  if (container->published_port != 0)
    launched.address.published = fmt::format("{}:{}", options_.publish_host, container->published_port);
  launched.address.host_id = options_.host_id;
  launched.phases = launching->phases;
  launched.image_digest = launching->image_digest;
  container->launched = true;
  keep(container, order, launched);
  // Already over: told in a later turn, so that the caller knows the sandbox before it hears of its end.
  if (container->end) {
    loop_.post([this, id = container->id, end = *container->end] {
      if (on_end_) on_end_(id, end);
    });
  }
  co_return launched;
}

io::Task<void> ContainerRuntime::carry_out(std::shared_ptr<Launching> launching, ContainerPtr container, StartSandbox order,
                                           Image image) {
  const std::uint16_t port = order.spec.port;
  Status status = co_await start(container, std::move(order), std::move(image), *launching);
  if (status && firewall_ && !options_.publish_host.empty()) status = co_await publish(container, port);
  if (status && (closing_ || container->abandoned)) status = failure(ErrorCode::unavailable, "the worker is stopping");
  if (status && container->stop_requested) status = failure(ErrorCode::cancelled, "it was told to stop before it ran");
  if (!status) {
    if (container->state == ContainerState::starting) release(container);
    if (container->state == ContainerState::running) kill(container, SIGKILL);
    static_cast<void>(co_await container->gone.wait(io::Loop::now() + kKillPatience));
  }
  launching->status = std::move(status);
  launching->done.set();
  co_return Status{};
}

io::Task<void> ContainerRuntime::start(ContainerPtr container, StartSandbox order, Image image, Launching& launching) {
  const Instant began = io::Loop::now();
  StartPhases& phases = launching.phases;
  ContainerOrder out;
  ImageUser as;
  out.name = container->name;
  if (image.kind == ImageKind::builtin) {
    out.spec.arguments = {"/cell", "builtin", image.location, options_.node.value};
    out.spec.environment = make_environment(order, order.spec.port, {});
  } else {
    auto lease = co_await take_image(image, std::move(order.image_digest));
    if (!lease) co_return failure(lease.error());
    container->image = std::move(*lease);
    if (image.kind == ImageKind::reference) launching.image_digest = container->image->digest;
    out.image = container->image;
    out.spec.arguments = make_command(out.image->config, order.spec.arguments);
    if (out.spec.arguments.empty())
      co_return failure(ErrorCode::invalid_argument,
                        "the image {} has no command of its own: give the program and its arguments as arguments",
                        image.location);
    std::string user = order.spec.user.empty() ? out.image->config.user : order.spec.user;
    auto found = co_await find_user(out.image, std::move(user));
    if (!found) co_return failure(found.error());
    as = std::move(*found);
    std::vector<std::string> variables = out.image->config.environment;
    if (!as.home.empty()) variables.insert(variables.begin(), "HOME=" + as.home);
    out.spec.environment = make_environment(order, order.spec.port, variables);
    out.spec.working_directory = out.image->config.working_directory;
  }
  const Instant have_image = io::Loop::now();
  phases.create = have_image - began;
  const Instant deadline = have_image + options_.start_timeout;
  auto place = co_await networks_->take(deadline);
  if (!place) co_return failure(place.error());
  container->place = std::move(*place);
  container->direct = fmt::format("{}:{}", container->place.address, order.spec.port);
  const Instant have_network = io::Loop::now();
  phases.network = have_network - have_image;
  auto waited = co_await starts_.wait(deadline);
  if (!waited) co_return failure(waited.error());
  std::optional<Turns::Turn> turn(std::move(*waited));
  if (!order.spec.working_directory.empty()) out.spec.working_directory = order.spec.working_directory;
  out.spec.hostname = to_string(order.id);
  become(out.spec, as, network_->range() * kRangeSize + container->place.number);
  for (const auto& [name, text] : order.spec.secrets) out.spec.secrets[name] = decode_base64(text).value_or("");
  out.spec.tmp_bytes = static_cast<std::uint64_t>(options_.tmp_max.value);
  out.spec.root_writable = options_.root_writable;
  out.spec.network_namespace = container->place.path();
  out.spec.limits = {order.spec.resources.memory, order.spec.resources.cpu, order.spec.cpu_limit, order.spec.pids_max};
  auto running = co_await engine_->start(std::move(out));
  turn.reset();
  if (!running) co_return failure(running.error());
  container->pid = running->pid;
  container->pidfd.assign(running->pidfd.release());
  for (const int stream : {0, 1}) {
    container->output[stream].assign(running->output[stream].release());
    read_output(container, stream);
  }
  container->state = ContainerState::running;
  watch(container);
  phases.start = io::Loop::now() - have_network;
  co_return Status{};
}

io::Task<void> ContainerRuntime::publish(ContainerPtr container, std::uint16_t port) {
  if (published_ports_.empty())
    co_return failure(ErrorCode::exhausted, "every port of {}..{} is published already", options_.publish_port_first,
                      options_.publish_port_last);
  const std::uint16_t outer = published_ports_.front();
  published_ports_.pop_front();
  auto add = [this, outer, port, host = container->place.address] { return firewall_->publish(outer, host, port); };
  Status added = co_await helpers_->run(std::move(add));
  if (!added) {
    published_ports_.push_back(outer);
    co_return failure(added.error().within("cannot publish the sandbox"));
  }
  if (container->gone.is_set()) {
    // Its clean-up has passed already.
    helpers_->submit([this, outer] { firewall_->unpublish(outer); });
    published_ports_.push_back(outer);
    co_return failure(ErrorCode::unavailable, "the function ended before it could be published: {}", container->end->detail);
  }
  container->published_port = outer;
  co_return Status{};
}

io::Task<void> ContainerRuntime::prefetch(std::string text) {
  auto image = parse_image(text);
  if (!image) co_return failure(image.error());
  if (image->kind != ImageKind::tar && image->kind != ImageKind::reference) co_return Status{};
  auto lease = co_await take_image(std::move(*image), "");
  if (!lease) co_return failure(lease.error());
  co_return Status{};
}

io::Task<std::vector<std::string>> ContainerRuntime::images() {
  auto look = [store = images_]() -> Result<std::vector<std::string>> { return store->names(); };
  co_return co_await helpers_->run(std::move(look));
}

io::Task<void> ContainerRuntime::remove(SandboxId id, Duration grace) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) co_return Status{};
  const ContainerPtr container = found->second;
  container->stop_requested = true;
  if (container->state == ContainerState::running) {
    Status ended_by_itself = failure(ErrorCode::timed_out, "not asked");
    if (grace > Duration::zero()) {
      kill(container, SIGTERM);
      ended_by_itself = co_await container->gone.wait(io::Loop::now() + grace);
    }
    if (!ended_by_itself && container->state == ContainerState::running) kill(container, SIGKILL);
  }
  // One that is still starting ends when its start does; its launcher takes care of it.
  Status gone = co_await container->gone.wait(io::Loop::now() + options_.start_timeout + kKillPatience);
  if (!gone) co_return failure(gone.error().within(fmt::format("sandbox {} does not end", to_string(id))));
  co_return Status{};
}

io::Task<bool> ContainerRuntime::probe(SandboxId id, std::string ready_path, Duration timeout) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end() || found->second->state != ContainerState::running) co_return false;
  std::string address = found->second->direct;
  Result<bool> answered = co_await probe_address(loop_, std::move(address), std::move(ready_path), timeout);
  // It may have ended meanwhile; then whatever answered was not it.
  const auto still = by_id_.find(id);
  if (still == by_id_.end() || still->second->state != ContainerState::running) co_return false;
  if (answered && *answered) note_ready(still->second);
  co_return answered;
}

std::vector<LogLine> ContainerRuntime::logs(SandboxId id, std::size_t lines_max) const {
  if (const auto found = by_id_.find(id); found != by_id_.end()) return found->second->logs->newest(lines_max);
  return kept_logs_.newest(id, lines_max);
}

io::Task<void> ContainerRuntime::close() {
  if (!opened_ || closing_) co_return Status{};
  closing_ = true;
  images_->stop();
  while (!by_id_.empty()) {
    for (const auto& [id, container] : by_id_) {
      container->stop_requested = true;
      if (container->state == ContainerState::running) kill(container, SIGKILL);
    }
    empty_ = std::make_shared<Signal>(loop_);
    // Those that are starting become running or nothing: look again soon.
    Status emptied = co_await empty_->wait(io::Loop::now() + 100ms);
    if (!emptied && emptied.error().code == ErrorCode::cancelled) break;
  }
  static_cast<void>(co_await networks_->close());
  co_await group_.wait();
  Status closed = co_await engine_->close();
  auto take_down = [this]() -> Status {
    take_down_parts();
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(take_down)));
  networks_.reset();
  opened_ = false;
  helpers_.reset();
  image_helpers_.reset();
  co_return closed;
}

}  // namespace dirigent::sandbox
