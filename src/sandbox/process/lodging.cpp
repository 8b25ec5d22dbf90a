// SPDX-License-Identifier: MIT
#include "sandbox/process/lodging.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"
#include "dirigent/io/file_descriptor.h"

namespace dirigent::sandbox {

namespace {

// What is charged to a cgroup after its last process has ended: slabs of the kernel's own, freed in its own time. More
// than this and the next function would miss it of its limit.
constexpr std::uint64_t kLeftMemoryMax = 1024 * 1024;

// "sockets: used 0", "TCP: inuse 0 orphan 3 tw 0 alloc 1 mem 175": a socket counts until the kernel has finished closing
// it. Orphans, `alloc` and `mem` are of the whole machine.
bool has_sockets(std::string_view text) {
  for (const auto line : split(text, '\n')) {
    const auto words = split(line, ' ');
    if (words.size() < 3) continue;
    for (std::size_t i = 1; i + 1 < words.size(); i += 2) {
      const bool is_own = words[i] == "used" || words[i] == "inuse" || words[i] == "tw";
      if (is_own && words[i + 1] != "0") return true;
    }
  }
  return false;
}

std::optional<std::string> read_small(const char* path) {
  const io::FileDescriptor file(::open(path, O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return std::nullopt;
  std::array<char, 1024> bytes{};
  const ssize_t size = ::read(file.get(), bytes.data(), bytes.size());
  if (size < 0) return std::nullopt;
  return std::string(bytes.data(), static_cast<std::size_t>(size));
}

Status taken_down(const Lodging& lodging) { return failure(ErrorCode::cancelled, "the lodging {} has been taken down", lodging.cgroup); }

}  // namespace

void Lodging::close_cgroups() {
  for (const int fd : cgroup_fds) ::close(fd);
  cgroup_fds.clear();
}

Lodging::~Lodging() {
  close_cgroups();
  if (netns >= 0) ::close(netns);
}

Lodgings::~Lodgings() {
  if (own_netns_ >= 0) ::close(own_netns_);
}

Status Lodgings::open(const Cgroups& cgroups, Network* network) {
  cgroups_ = &cgroups;
  network_ = network;
  if (network_ == nullptr) return {};
  own_netns_ = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (own_netns_ < 0) return errno_failure(errno, "cannot open /proc/self/ns/net (is /proc mounted?)");
  auto socket = std::make_unique<netlink::RouteSocket>();
  if (const int error = socket->open()) return errno_failure(error, "cannot open a netlink socket");
  socket_ = std::move(socket);
  return {};
}

Status Lodgings::build(Lodging& lodging, const CgroupLimits& usual) const {
  const std::lock_guard held(lodging.mutex);
  return build_held(lodging, usual);
}

// REQUIRES: the lodging's mutex is held.
Status Lodgings::build_held(Lodging& lodging, const CgroupLimits& usual) const {
  if (lodging.is_demolished) return taken_down(lodging);
  auto fds = cgroups_->make(lodging.cgroup);
  if (!fds) return failure(fds.error());
  lodging.cgroup_fds = std::move(*fds);
  if (!lodging.limits && cgroups_->set_limits(lodging.cgroup, usual, std::nullopt)) lodging.limits = usual;
  return {};
}

Status Lodgings::connect(Lodging& lodging, std::uint32_t serial, std::uint32_t pid) {
  const std::lock_guard held(lodging.mutex);
  if (lodging.is_demolished) return taken_down(lodging);
  lodging.netns = ::open(fmt::format("/proc/{}/ns/net", pid).c_str(), O_RDONLY | O_CLOEXEC);
  if (lodging.netns < 0) return errno_failure(errno, fmt::format("cannot open the network namespace of process {}", pid));
  auto network = network_->attach(serial, pid, lodging.number);
  if (!network) return failure(network.error());
  lodging.network = *network;
  lodging.link = static_cast<int>(::if_nametoindex(fmt::format("{}{:x}", network_->link_prefix(), serial).c_str()));
  return {};
}

// The host's side; the cell does its own when it is told.
Status Lodgings::readdress(Lodging& lodging, std::uint32_t number, const CgroupLimits& usual) {
  const std::lock_guard held(lodging.mutex);
  if (Status opened = build_held(lodging, usual); !opened) return opened;
  lodging.network.previous = lodging.network.address;
  if (number == lodging.number) return {};
  const std::uint32_t before = network_->address_of(lodging.number);
  const std::uint32_t next = network_->address_of(number);
  std::vector<netlink::Request> requests;
  requests.push_back(netlink::delete_host_route(lodging.link, before));
  requests.push_back(netlink::delete_neighbour(lodging.link, before));
  requests.push_back(netlink::add_neighbour(lodging.link, next, lodging.network.own_mac));
  requests.push_back(netlink::add_host_route(lodging.link, next, network_->gateway()));
  std::size_t failed = 0;
  int error = 0;
  {
    const std::lock_guard lock(mutex_);
    error = socket_->run(requests, &failed);
  }
  if (error != 0)
    return errno_failure(error, fmt::format("cannot route {} instead of {} (step {})", to_dotted(next), to_dotted(before), failed));
  lodging.network.address = next;
  lodging.left_number = std::exchange(lodging.number, number);
  return {};
}

Lodgings::State Lodgings::inspect(Lodging& lodging) const {
  const std::lock_guard held(lodging.mutex);
  if (!lodging.is_whole || lodging.netns < 0) return State::spoiled;
  if (!cgroups_->is_like_new(lodging.cgroup, kLeftMemoryMax)) return State::spoiled;
  // A thread's network namespace is its own: the helper goes there and back.
  if (::setns(lodging.netns, CLONE_NEWNET) != 0) return State::spoiled;
  const auto inet = read_small("/proc/thread-self/net/sockstat");
  const auto inet6 = read_small("/proc/thread-self/net/sockstat6");
  ASSERT(::setns(own_netns_, CLONE_NEWNET) == 0, "a helper thread cannot leave the network namespace of a sandbox: errno {}", errno);
  if (!inet) return State::spoiled;
  return has_sockets(*inet) || (inet6 && has_sockets(*inet6)) ? State::busy : State::clean;
}

void Lodgings::demolish(Lodging& lodging) const {
  const std::lock_guard held(lodging.mutex);
  lodging.is_demolished = true;
  lodging.close_cgroups();
  cgroups_->remove(lodging.cgroup);
  if (lodging.netns >= 0) ::close(std::exchange(lodging.netns, -1));
}

}  // namespace dirigent::sandbox
