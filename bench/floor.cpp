// SPDX-License-Identifier: MIT
#include "floor.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "dirigent/io/loop.h"
#include "sandbox/netlink.h"

namespace dirigent::bench {

namespace {

namespace netlink = sandbox::netlink;

// --- the child's side: everything in one process, one step after the other, and no message in between --------------

int set_up_link(const sandbox::wire::Network& network) {
  netlink::RouteSocket socket;
  if (const int error = socket.open()) return error;
  const int link = static_cast<int>(::if_nametoindex(sandbox::wire::kInnerLink));
  std::vector<netlink::Request> requests;
  requests.push_back(netlink::set_up(1));
  requests.push_back(netlink::add_address(link, network.address, 32));
  requests.push_back(netlink::set_up(link));
  requests.push_back(netlink::add_default_route(link, network.gateway));
  requests.push_back(netlink::add_neighbour(link, network.gateway, network.gateway_mac));
  return socket.run(requests);
}

sandbox::wire::Network read_network(int fd) {
  std::array<char, 64> bytes{};
  const ssize_t size = ::read(fd, bytes.data(), bytes.size());
  sandbox::wire::Reader in(std::string_view(bytes.data(), size > 0 ? static_cast<std::size_t>(size) : 0));
  in.kind();
  return sandbox::wire::Network::read(in);
}

bool enter_root(const char* lower) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  if (::mount("upper", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m") != 0) return false;
  ::mkdir("/mnt/up", 0755);
  ::mkdir("/mnt/work", 0755);
  ::mkdir("/mnt/root", 0755);
  const std::string options = std::string("lowerdir=") + lower + ",upperdir=/mnt/up,workdir=/mnt/work";
  if (::mount("overlay", "/mnt/root", "overlay", MS_NOSUID | MS_NODEV, options.c_str()) != 0) return false;
  if (::mount("proc", "/mnt/root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) return false;
  if (::chdir("/mnt/root") != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0) return false;
  return ::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0;
}

bool filter_calls() {
  const sock_filter code[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 2, SYS_mount},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog program{5, const_cast<sock_filter*>(code)};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

[[noreturn]] void be_function(const std::vector<int>& cgroups, int netns, int go, const char* root) {
  // The kernel lets no real-time process into a cpu cgroup.
  const sched_param ordinary{};
  ::sched_setscheduler(0, SCHED_OTHER, &ordinary);
  if (netns >= 0 && ::setns(netns, CLONE_NEWNET) != 0) ::_exit(1);
  for (const int fd : cgroups) {
    if (::write(fd, "0", 1) != 1) ::_exit(2);
  }
  if (!enter_root(root)) ::_exit(3);
  if (netns < 0 && set_up_link(read_network(go)) != 0) ::_exit(4);
  if (!filter_calls()) ::_exit(5);
  char* const arguments[] = {const_cast<char*>("hello"), nullptr};
  char* const environment[] = {nullptr};
  ::execve("/hello", arguments, environment);
  ::_exit(6);
}

}  // namespace

HelloRoot::HelloRoot() {
  char path[] = "/tmp/dirigent-hello-XXXXXX";
  if (::mkdtemp(path) != nullptr) path_ = path;
  std::error_code error;
  for (const char* directory : {"/proc", "/dev", "/tmp"}) std::filesystem::create_directory(path_ + directory, error);
  std::filesystem::copy_file(HELLO_PATH, path_ + "/hello", error);
  std::filesystem::permissions(path_, std::filesystem::perms(0755), error);
}

HelloRoot::~HelloRoot() {
  std::error_code error;
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

bool get_hello(std::uint32_t address) {
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(8080);
  peer.sin_addr.s_addr = address;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{0, 3000};
    ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof peer) == 0) {
      constexpr std::string_view kRequest = "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n";
      std::array<char, 512> answer{};
      const bool fine = ::send(fd, kRequest.data(), kRequest.size(), 0) > 0 &&
                        ::recv(fd, answer.data(), answer.size(), 0) > 12 &&
                        std::string_view(answer.data(), 12) == "HTTP/1.1 200";
      ::close(fd);
      if (fine) return true;
    } else {
      ::close(fd);
      ::usleep(100);
    }
  }
  return false;
}

Result<std::unique_ptr<Floor>> Floor::open(const std::string& name, const std::string& root, std::uint32_t pool) {
  auto floor = std::unique_ptr<Floor>(new Floor());
  floor->root_ = root;
  floor->cgroups_ = sandbox::Cgroups::open(name);
  auto network = sandbox::Network::open(name);
  if (!network) return failure(network.error());
  floor->network_ = std::move(*network);
  for (std::uint32_t i = 0; i < pool; ++i) {
    auto place = floor->make_place();
    if (!place) return failure(place.error());
    floor->pool_.push_back(*place);
  }
  return floor;
}

Floor::~Floor() {
  stop();
  for (const Place& place : pool_) ::close(place.netns);
  for (const auto& directory : cgroups_.node_directories()) {
    ::rmdir(directory.c_str());
    ::rmdir(directory.substr(0, directory.rfind('/')).c_str());
  }
  if (network_) {
    network_->remove_gateway();
    network_->wait_for_links(5s);
  }
}

// A network namespace with a link to this one, held by its descriptor.
Result<Floor::Place> Floor::make_place() {
  int go[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) != 0) return errno_failure(errno, "cannot make a socket pair");
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
  if (pid == 0) ::_exit(set_up_link(read_network(go[1])));
  const std::uint32_t number = 2 + count_++;
  auto attached = network_->attach(count_, static_cast<std::uint32_t>(pid), number);
  Place place;
  place.netns = ::open(fmt::format("/proc/{}/ns/net", pid).c_str(), O_RDONLY | O_CLOEXEC);
  sandbox::wire::Writer message(sandbox::wire::Kind::network);
  if (attached) attached->write(message);
  sandbox::wire::send_message(go[0], message.bytes());
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::close(go[0]);
  ::close(go[1]);
  if (!attached) return failure(attached.error());
  if (status != 0 || place.netns < 0) return failure(ErrorCode::unavailable, "cannot set up a network namespace: status {}", status);
  place.address = attached->address;
  return place;
}

Result<Duration> Floor::start() {
  const Instant began = io::Loop::now();
  const std::uint32_t number = 2 + count_ % 4000;
  cgroup_ = fmt::format("floor-{}", count_++);
  auto fds = cgroups_.make(cgroup_);
  if (!fds) return failure(fds.error());
  cgroup_fds_ = *fds;
  Status limited = cgroups_.set_limits(cgroup_, {128_MiB, Millicpu{100}, {}, 1024}, std::nullopt);
  if (!limited) return failure(limited.error());
  unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
  Place place;
  int go[2] = {-1, -1};
  if (pool_.empty()) {
    flags |= CLONE_NEWNET;
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) != 0) return errno_failure(errno, "cannot make a socket pair");
  } else {
    place = pool_[count_ % pool_.size()];
  }
  pid_ = static_cast<int>(::syscall(SYS_clone, flags, 0, 0, 0, 0));
  if (pid_ == 0) be_function(cgroup_fds_, place.netns, go[1], root_.c_str());
  if (pool_.empty()) {
    auto attached = network_->attach(count_, static_cast<std::uint32_t>(pid_), number);
    sandbox::wire::Writer message(sandbox::wire::Kind::network);
    if (attached) {
      attached->write(message);
      sandbox::wire::send_message(go[0], message.bytes());
      place.address = attached->address;
    }
    ::close(go[1]);
    ::close(go[0]);
    if (!attached) return failure(attached.error());
  }
  if (!get_hello(place.address)) return failure(ErrorCode::unavailable, "the function of the floor does not answer");
  return io::Loop::now() - began;
}

void Floor::stop() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
  for (const int fd : cgroup_fds_) ::close(fd);
  cgroup_fds_.clear();
  cgroups_.remove(cgroup_);
}

}  // namespace dirigent::bench
