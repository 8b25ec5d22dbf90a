// SPDX-License-Identifier: MIT
#include "sandbox/netlink.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace dirigent::sandbox::netlink {

namespace {

std::size_t padded(std::size_t size) { return (size + 3) & ~std::size_t{3}; }

// Reads acknowledgements until each of `count` requests from `first` on has one.
int read_acknowledgements(int fd, std::uint32_t first, std::size_t count, std::size_t* failed) {
  int error = 0;
  std::size_t seen = 0;
  alignas(nlmsghdr) char buffer[16384];
  while (seen < count) {
    const ssize_t size = ::recv(fd, buffer, sizeof buffer, 0);
    if (size < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    auto rest = static_cast<unsigned>(size);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, rest);
         header = NLMSG_NEXT(header, rest)) {
      if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_seq - first >= count) continue;
      ++seen;
      const auto* report = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
      if (report->error != 0 && error == 0) {
        error = -report->error;
        if (failed != nullptr) *failed = header->nlmsg_seq - first;
      }
    }
  }
  return error;
}

int open_socket(int protocol) {
  const int fd = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd < 0) return -1;
  // A lost acknowledgement must not hang a helper thread for ever.
  const timeval patience{5, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

Request address_request(std::uint16_t type, std::uint16_t flags, int index, std::uint32_t address, int prefix) {
  Request request(type, flags);
  ifaddrmsg fixed{};
  fixed.ifa_family = AF_INET;
  fixed.ifa_prefixlen = static_cast<std::uint8_t>(prefix);
  fixed.ifa_index = static_cast<std::uint32_t>(index);
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(IFA_LOCAL, address);
  request.attribute_u32(IFA_ADDRESS, address);
  return request;
}

}  // namespace

Request::Request(std::uint16_t type, std::uint16_t flags) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
  fixed(&header, sizeof header);
}

void Request::fixed(const void* data, std::size_t size) {
  bytes_.append(static_cast<const char*>(data), size);
  bytes_.resize(padded(bytes_.size()));
}

void Request::attribute(std::uint16_t type, const void* data, std::size_t size) {
  const nlattr header{static_cast<std::uint16_t>(sizeof(nlattr) + size), type};
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  fixed(data, size);
}

std::size_t Request::open(std::uint16_t type) {
  const std::size_t position = bytes_.size();
  attribute(static_cast<std::uint16_t>(type | NLA_F_NESTED), nullptr, 0);
  return position;
}

void Request::close(std::size_t position) {
  const auto size = static_cast<std::uint16_t>(bytes_.size() - position);
  std::memcpy(bytes_.data() + position, &size, sizeof size);
}

std::string& Request::finish(std::uint32_t sequence) {
  const auto size = static_cast<std::uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &size, sizeof size);
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  return bytes_;
}

RouteSocket::~RouteSocket() {
  if (fd_ >= 0) ::close(fd_);
}

int RouteSocket::open() {
  fd_ = open_socket(NETLINK_ROUTE);
  return fd_ < 0 ? errno : 0;
}

int RouteSocket::run(std::vector<Request>& requests, std::size_t* failed) {
  const std::uint32_t first = sequence_ + 1;
  std::string batch;
  for (auto& request : requests) batch += request.finish(++sequence_);
  if (::send(fd_, batch.data(), batch.size(), 0) < 0) return errno;
  return read_acknowledgements(fd_, first, requests.size(), failed);
}

int RouteSocket::run(Request request) {
  std::vector<Request> one{std::move(request)};
  return run(one);
}

namespace {
// `where` is the attribute that says in which network namespace the peer comes to be.
Request veth(const std::string& name, const std::string& mac, const std::string& peer, const std::string& peer_mac,
             std::uint16_t where, std::uint32_t value, int index) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  ifinfomsg fixed{};
  fixed.ifi_family = AF_UNSPEC;
  fixed.ifi_index = index;
  fixed.ifi_flags = IFF_UP;
  fixed.ifi_change = IFF_UP;
  request.fixed(&fixed, sizeof fixed);
  request.attribute_text(IFLA_IFNAME, name);
  request.attribute(IFLA_ADDRESS, mac.data(), mac.size());
  const auto info = request.open(IFLA_LINKINFO);
  request.attribute_text(IFLA_INFO_KIND, "veth");
  const auto data = request.open(IFLA_INFO_DATA);
  const auto other = request.open(VETH_INFO_PEER);
  ifinfomsg inner{};  // not up: the kernel refuses a peer that is made up before its other end is
  request.fixed(&inner, sizeof inner);
  request.attribute_text(IFLA_IFNAME, peer);
  request.attribute(IFLA_ADDRESS, peer_mac.data(), peer_mac.size());
  request.attribute_u32(where, value);
  request.close(other);
  request.close(data);
  request.close(info);
  return request;
}
}  // namespace

Request make_veth(const std::string& name, const std::string& mac, const std::string& peer, const std::string& peer_mac,
                  std::uint32_t pid, int index) {
  return veth(name, mac, peer, peer_mac, IFLA_NET_NS_PID, pid, index);
}

Request make_veth_into(const std::string& name, const std::string& mac, const std::string& peer,
                       const std::string& peer_mac, int peer_namespace) {
  return veth(name, mac, peer, peer_mac, IFLA_NET_NS_FD, static_cast<std::uint32_t>(peer_namespace), 0);
}

Request set_no_link_local(int index) {
  Request request(RTM_SETLINK, 0);
  ifinfomsg fixed{};
  fixed.ifi_index = index;
  request.fixed(&fixed, sizeof fixed);
  const auto families = request.open(IFLA_AF_SPEC);
  const auto inet6 = request.open(AF_INET6);
  const std::uint8_t mode = IN6_ADDR_GEN_MODE_NONE;
  request.attribute(IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof mode);
  request.close(inet6);
  request.close(families);
  return request;
}

Request set_up(int index) {
  Request request(RTM_NEWLINK, 0);
  ifinfomsg fixed{};
  fixed.ifi_index = index;
  fixed.ifi_flags = IFF_UP;
  fixed.ifi_change = IFF_UP;
  request.fixed(&fixed, sizeof fixed);
  return request;
}

Request delete_link(int index) {
  Request request(RTM_DELLINK, 0);
  ifinfomsg fixed{};
  fixed.ifi_index = index;
  request.fixed(&fixed, sizeof fixed);
  return request;
}

Request add_address(int index, std::uint32_t address, int prefix) {
  return address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address, prefix);
}

Request delete_address(int index, std::uint32_t address, int prefix) {
  return address_request(RTM_DELADDR, 0, index, address, prefix);
}

namespace {
Request host_route(std::uint16_t type, std::uint16_t flags, int index, std::uint32_t address) {
  Request request(type, flags);
  rtmsg fixed{};
  fixed.rtm_family = AF_INET;
  fixed.rtm_dst_len = 32;
  fixed.rtm_table = RT_TABLE_MAIN;
  fixed.rtm_protocol = RTPROT_STATIC;
  fixed.rtm_scope = RT_SCOPE_LINK;
  fixed.rtm_type = RTN_UNICAST;
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(RTA_DST, address);
  request.attribute_u32(RTA_OIF, static_cast<std::uint32_t>(index));
  return request;
}
}  // namespace

Request add_host_route(int index, std::uint32_t address, std::uint32_t source) {
  Request request = host_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, index, address);
  if (source != 0) request.attribute_u32(RTA_PREFSRC, source);
  return request;
}

Request delete_host_route(int index, std::uint32_t address) { return host_route(RTM_DELROUTE, 0, index, address); }

namespace {
Request unreachable_route(std::uint16_t type, std::uint16_t flags, std::uint32_t network, int prefix) {
  Request request(type, flags);
  rtmsg fixed{};
  fixed.rtm_family = AF_INET;
  fixed.rtm_dst_len = static_cast<unsigned char>(prefix);
  fixed.rtm_table = RT_TABLE_MAIN;
  fixed.rtm_protocol = RTPROT_STATIC;
  fixed.rtm_scope = RT_SCOPE_UNIVERSE;
  fixed.rtm_type = RTN_UNREACHABLE;
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(RTA_DST, network);
  return request;
}
}  // namespace

Request add_unreachable_route(std::uint32_t network, int prefix) {
  return unreachable_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, network, prefix);
}

Request delete_unreachable_route(std::uint32_t network, int prefix) {
  return unreachable_route(RTM_DELROUTE, 0, network, prefix);
}

Request add_default_route(int index, std::uint32_t gateway) {
  Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  rtmsg fixed{};
  fixed.rtm_family = AF_INET;
  fixed.rtm_table = RT_TABLE_MAIN;
  fixed.rtm_protocol = RTPROT_STATIC;
  fixed.rtm_scope = RT_SCOPE_UNIVERSE;
  fixed.rtm_type = RTN_UNICAST;
  fixed.rtm_flags = RTNH_F_ONLINK;  // the gateway is in no network of the link's
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(RTA_GATEWAY, gateway);
  request.attribute_u32(RTA_OIF, static_cast<std::uint32_t>(index));
  return request;
}

Request add_neighbour(int index, std::uint32_t address, const std::string& mac) {
  Request request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  ndmsg fixed{};
  fixed.ndm_family = AF_INET;
  fixed.ndm_ifindex = index;
  fixed.ndm_state = NUD_PERMANENT;
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(NDA_DST, address);
  request.attribute(NDA_LLADDR, mac.data(), mac.size());
  return request;
}

Request delete_neighbour(int index, std::uint32_t address) {
  Request request(RTM_DELNEIGH, 0);
  ndmsg fixed{};
  fixed.ndm_family = AF_INET;
  fixed.ndm_ifindex = index;
  request.fixed(&fixed, sizeof fixed);
  request.attribute_u32(NDA_DST, address);
  return request;
}

int delete_nft_table(std::uint8_t family, const std::string& name) {
  const int fd = open_socket(NETLINK_NETFILTER);
  if (fd < 0) return errno;
  // nf_tables takes changes as one batch: begin, the change, end. Only the change asks for an acknowledgement.
  const auto batch_edge = [](std::uint16_t type, std::uint32_t sequence) {
    nlmsghdr header{};
    header.nlmsg_len = NLMSG_LENGTH(sizeof(nfgenmsg));
    header.nlmsg_type = type;
    header.nlmsg_flags = NLM_F_REQUEST;
    header.nlmsg_seq = sequence;
    nfgenmsg fixed{AF_UNSPEC, NFNETLINK_V0, htons(NFNL_SUBSYS_NFTABLES)};
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes.append(reinterpret_cast<const char*>(&fixed), sizeof fixed);
    return bytes;
  };
  Request change(static_cast<std::uint16_t>((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_DELTABLE), 0);
  const nfgenmsg fixed{family, NFNETLINK_V0, 0};
  change.fixed(&fixed, sizeof fixed);
  change.attribute_text(NFTA_TABLE_NAME, name);
  const std::string batch = batch_edge(NFNL_MSG_BATCH_BEGIN, 1) + change.finish(2) + batch_edge(NFNL_MSG_BATCH_END, 3);
  int error = 0;
  if (::send(fd, batch.data(), batch.size(), 0) < 0) error = errno;
  else error = read_acknowledgements(fd, 2, 1, nullptr);
  ::close(fd);
  return error;
}

}  // namespace dirigent::sandbox::netlink
