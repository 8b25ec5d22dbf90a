// SPDX-License-Identifier: MIT
#include "sandbox/network/namespaces.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>

#include "dirigent/base/assert.h"

namespace dirigent::sandbox {

namespace {

constexpr const char* kMine = "/proc/thread-self/ns/net";

void write_knob(const char* path, const char* value) {
  const io::FileDescriptor file(::open(path, O_WRONLY | O_CLOEXEC));
  if (file.is_open()) [[maybe_unused]] const auto ignored = ::write(file.get(), value, 1);
}

// Brings the thread back, whatever happens: a helper in the wrong namespace would do its next work there.
class Excursion {
 public:
  explicit Excursion(int home) : home_(home) {}
  Excursion(const Excursion&) = delete;
  Excursion& operator=(const Excursion&) = delete;
  ~Excursion() { ASSERT(::setns(home_, CLONE_NEWNET) == 0, "cannot return to the host's network namespace: {}", errno); }

 private:
  int home_;
};

Status set_up_inside(const wire::Network& network) {
  netlink::RouteSocket socket;
  if (const int error = socket.open()) return errno_failure(error, "cannot open a netlink socket");
  const int link = static_cast<int>(::if_nametoindex(wire::kInnerLink));
  std::vector<netlink::Request> requests;
  requests.push_back(netlink::set_up(1));
  requests.push_back(netlink::add_address(link, network.address, 32));
  requests.push_back(netlink::set_up(link));
  requests.push_back(netlink::add_default_route(link, network.gateway));
  requests.push_back(netlink::add_neighbour(link, network.gateway, network.gateway_mac));
  std::size_t failed = 0;
  if (const int error = socket.run(requests, &failed))
    return errno_failure(error, fmt::format("cannot set up the network of a sandbox at step {}", failed));
  return {};
}

}  // namespace

std::string NetworkPlace::path() const {
  return fmt::format("/proc/{}/fd/{}", ::getpid(), network_namespace.get());
}

namespace {

// A new namespace with lo down; the calling thread has been in it.
template <class Inside>
Result<io::FileDescriptor> make_namespace(const io::FileDescriptor& home, Inside inside) {
  if (::unshare(CLONE_NEWNET) != 0) return errno_failure(errno, "cannot make a network namespace");
  const Excursion excursion(home.get());
  io::FileDescriptor made(::open(kMine, O_RDONLY | O_CLOEXEC));
  if (!made.is_open()) return errno_failure(errno, fmt::format("cannot open {}", kMine));
  // Ports below 1024 are ordinary ones in a network namespace of one's own.
  write_knob("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
  inside();
  return made;
}

Result<io::FileDescriptor> home_namespace() {
  io::FileDescriptor home(::open(kMine, O_RDONLY | O_CLOEXEC));
  if (!home.is_open()) return errno_failure(errno, fmt::format("cannot open {}", kMine));
  return home;
}

}  // namespace

Result<NetworkPlace> make_network_place(Network& network, std::uint32_t serial, std::uint32_t number) {
  auto own = home_namespace();
  if (!own) return failure(own.error());
  const io::FileDescriptor home = std::move(*own);
  NetworkPlace place;
  place.number = number;
  place.address = to_dotted(network.address_of(number));
  auto made = make_namespace(home, [] { write_knob("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"); });
  if (!made) return failure(made.error());
  place.network_namespace = std::move(*made);
  auto attached = network.attach_namespace(serial, place.network_namespace.get(), number);
  if (!attached) return failure(attached.error());
  if (::setns(place.network_namespace.get(), CLONE_NEWNET) != 0)
    return errno_failure(errno, "cannot enter a network namespace");
  const Excursion excursion(home.get());
  if (Status inside = set_up_inside(*attached); !inside) return failure(inside.error());
  return place;
}

Result<NetworkPlace> make_cni_place(CniNetwork& cni, std::uint32_t number) {
  auto home = home_namespace();
  if (!home) return failure(home.error());
  NetworkPlace place;
  place.number = number;
  // Plugins take no care of lo unless the list has one for it.
  auto made = make_namespace(*home, [] {
    netlink::RouteSocket socket;
    if (socket.open() == 0) static_cast<void>(socket.run(netlink::set_up(1)));
  });
  if (!made) return failure(made.error());
  place.network_namespace = std::move(*made);
  place.attachment = cni.new_attachment();
  auto address = cni.add(place.attachment, place.path());
  if (!address) return failure(address.error());
  place.address = std::move(*address);
  return place;
}

}  // namespace dirigent::sandbox
