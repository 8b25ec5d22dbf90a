// SPDX-License-Identifier: MIT
//
// How much of a cold start is the kernel's, and how much is ours? In microseconds, order to first answered request.
//
// The floor: what a single-minded program would do per sandbox, with nothing prepared: clone into new namespaces, a
// veth pair, three cgroups, exec of the same cell program serving hello, connect, GET. Then the process runtime with
// everything on (limits, root, uid, capabilities, filter), from parked cells and without any. Needs root. Prints
// key=value lines.
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <thread>

#include "dirigent/base/histogram.h"
#include "dirigent/io/loop.h"
#include "dirigent/sandbox/process_runtime.h"
#include "sandbox/netlink.h"
#include "sandbox/process/cgroups.h"
#include "sandbox/network/network.h"

extern "C" const char dirigent_cell_begin[];
extern "C" const char dirigent_cell_end[];

namespace {

using namespace dirigent;

void print(const char* what, const Histogram& times) {
  std::printf("benchmark=cold_floor variant=%s n=%llu p50_us=%lld p99_us=%lld max_us=%lld mean_us=%.0f\n", what,
              static_cast<unsigned long long>(times.count()), static_cast<long long>(times.quantile(0.5) / 1000),
              static_cast<long long>(times.quantile(0.99) / 1000), static_cast<long long>(times.max() / 1000),
              times.mean() / 1000);
}

// A connect with 3 ms of patience and a new socket each time (a fresh link drops the first SYN), then one GET.
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

struct FloorCell {
  const char* program;
  int socket;
  int go;
  const std::vector<int>* cgroups;
};

int floor_child(void* argument) {
  const auto& cell = *static_cast<FloorCell*>(argument);
  // As the cells of the runtime do: the kernel lets no real-time process into a cpu cgroup.
  const sched_param ordinary{};
  ::sched_setscheduler(0, SCHED_OTHER, &ordinary);
  for (const int fd : *cell.cgroups) {
    if (::write(fd, "0", 1) != 1) return 1;
  }
  ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  ::mount("proc", "/proc", "proc", MS_NOSUID, nullptr);
  sandbox::wire::Network network;
  std::array<char, 64> bytes{};
  const ssize_t size = ::read(cell.go, bytes.data(), bytes.size());
  sandbox::wire::Reader in(std::string_view(bytes.data(), size > 0 ? static_cast<std::size_t>(size) : 0));
  in.kind();
  network = sandbox::wire::Network::read(in);
  sandbox::netlink::RouteSocket socket;
  if (socket.open() != 0) return 1;
  const int link = static_cast<int>(::if_nametoindex(sandbox::wire::kInnerLink));
  std::vector<sandbox::netlink::Request> requests;
  requests.push_back(sandbox::netlink::add_address(link, network.address, 32));
  requests.push_back(sandbox::netlink::set_up(link));
  requests.push_back(sandbox::netlink::add_default_route(link, network.gateway));
  requests.push_back(sandbox::netlink::add_neighbour(link, network.gateway, network.gateway_mac));
  if (socket.run(requests) != 0) return 1;
  ::dup2(cell.socket, sandbox::wire::kSpawnerSocket);
  ::execl(cell.program, "cell", "hello", "8080", static_cast<char*>(nullptr));
  return 1;
}

int run_floor(int count) {
  auto cgroups = sandbox::Cgroups::open("floor");
  auto network = sandbox::Network::open("floor");
  if (!network) {
    std::fprintf(stderr, "%s\n", network.error().message.c_str());
    return 1;
  }
  const int program = ::memfd_create("cell", 0);
  const std::span<const char> bytes(dirigent_cell_begin, dirigent_cell_end);
  if (::write(program, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) return 1;
  // Opened for reading only, or the kernel says that the file is busy.
  const int readable = ::open(fmt::format("/proc/self/fd/{}", program).c_str(), O_RDONLY | O_CLOEXEC);
  const std::string path = fmt::format("/proc/self/fd/{}", readable);
  ::close(program);
  Histogram times;
  int status = 0;
  for (int i = 0; i < count; ++i) {
    std::this_thread::sleep_for(60ms);  // a cold start comes alone, not in a tight loop
    const auto began = io::Loop::now();
    const std::string name = fmt::format("floor-{}", i);
    auto fds = cgroups.make(name);
    if (!fds || !cgroups.set_limits(name, {128_MiB, Millicpu{100}, {}, 1024})) return 1;
    int control[2];
    int go[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0 ||
        ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) != 0)
      return 1;
    FloorCell cell{path.c_str(), control[1], go[1], &*fds};
    const auto pid = static_cast<pid_t>(::syscall(
        SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) ::_exit(floor_child(&cell));
    auto attached = (*network)->attach(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(pid),
                                       static_cast<std::uint32_t>(2 + i));
    if (!attached) {
      std::fprintf(stderr, "%s\n", attached.error().message.c_str());
      return 1;
    }
    sandbox::wire::Writer message(sandbox::wire::Kind::network);
    attached->write(message);
    sandbox::wire::send_message(go[0], message.bytes());
    const bool fine = get_hello(attached->address);
    times.record(io::Loop::now() - began);
    if (!fine) status = 1;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    for (const int fd : {control[0], control[1], go[0], go[1]}) ::close(fd);
    for (const int fd : *fds) ::close(fd);
    cgroups.remove(name);
  }
  for (const auto& directory : cgroups.node_directories()) ::rmdir(directory.c_str());
  (*network)->remove_gateway();
  ::close(readable);
  print("kernel_floor", times);
  return status;
}

io::Task<void> measure(io::Loop& loop, sandbox::Runtime& runtime, int count, const char* what, int& status) {
  Status opened = co_await runtime.open();
  if (!opened) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    status = 1;
    co_return opened;
  }
  static_cast<void>(co_await io::sleep_for(loop, 500ms));
  Histogram whole;
  Histogram launches;
  for (int i = 0; i < count; ++i) {
    StartSandbox order;
    order.id = SandboxId{static_cast<std::uint64_t>(i + 1)};
    order.function = FunctionName{"hello"};
    order.revision = RevisionNumber{1};
    order.spec.image = "builtin:hello";
    const auto began = io::Loop::now();
    const auto id = order.id;
    auto launched = co_await runtime.launch(std::move(order));
    launches.record(io::Loop::now() - began);
    if (!launched) {
      std::fprintf(stderr, "%s\n", launched.error().message.c_str());
      status = 1;
      break;
    }
    std::uint32_t address = 0;
    const std::string& direct = launched->address.direct;
    ::inet_pton(AF_INET, direct.substr(0, direct.find(':')).c_str(), &address);
    if (!get_hello(address)) status = 1;
    whole.record(io::Loop::now() - began);
    static_cast<void>(co_await runtime.remove(id, Duration::zero()));
    static_cast<void>(co_await io::sleep_for(loop, 60ms));
  }
  static_cast<void>(co_await runtime.close());
  print(what, whole);
  print((std::string(what) + "_launch_only").c_str(), launches);
  co_return Status{};
}

io::Action measure_and_stop(io::Loop& loop, sandbox::Runtime& runtime, int count, const char* what, int& status) {
  Status measured = co_await measure(loop, runtime, count, what, status);
  loop.stop();
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 200;
  if (::geteuid() != 0) {
    std::fprintf(stderr, "cold_floor makes namespaces and links: run it as root\n");
    return 2;
  }
  int status = run_floor(count);
  for (const bool parked : {true, false}) {
    io::Loop loop;
    sandbox::ProcessRuntimeOptions options;
    options.node = NodeId{"bench"};
    options.parked = parked ? 8 : 0;
    options.parked_max = options.parked;
    auto runtime = sandbox::make_process_runtime(loop, options);
    io::TaskGroup group(loop, "bench");
    group.spawn(measure_and_stop(loop, *runtime, count, parked ? "runtime_parked" : "runtime_unparked", status));
    loop.run();
    group.drain_now();
  }
  return status;
}
