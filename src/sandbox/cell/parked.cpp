// SPDX-License-Identifier: MIT
#include "sandbox/cell/parked.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "sandbox/cell/builtin.h"
#include "sandbox/cell/confine.h"
#include "sandbox/cell/root.h"
#include "sandbox/cell/steps.h"
#include "sandbox/netlink.h"

namespace dirigent::sandbox::cell {

namespace {

constexpr int kControl = 3;
constexpr int kStandBack = 5;  // steps of nice: a third of the processor beside somebody whose order is being carried out
constexpr unsigned long kFunctionFilesMax = 1024;
constexpr unsigned long kBuiltinFilesMax = 16384;  // our own code: a connection each

[[noreturn]] void give_up(const Failure& failure) {
  wire::Writer out(wire::Kind::failed);
  out.u8(failure.not_found ? 1 : 0).text(failure.text);
  wire::send_message(kControl, out.bytes());
  ::_exit(125);
}

[[noreturn]] void report_end(int code, int signal) {
  wire::Writer out(wire::Kind::ended);
  out.u32(static_cast<std::uint32_t>(code)).u32(static_cast<std::uint32_t>(signal));
  wire::send_message(kControl, out.bytes());
  ::_exit(code);
}

Failure join_cgroups(const ParkingPlace& place) {
  for (const int fd : place.cgroups) {
    if (::write(fd, "0", 1) != 1) return errno_failure("join", "a cgroup");
    ::close(fd);
  }
  if (place.isolation == wire::Isolation::full && ::unshare(CLONE_NEWCGROUP) != 0 && errno != EINVAL) {
    return errno_failure("make", "a cgroup namespace");
  }
  return {};
}

Failure map_user(const ParkingPlace& place) {
  // One id only may be mapped without privilege; the function sees itself as 1000.
  if (Failure failure = write_file("/proc/self/setgroups", "deny")) return failure;
  if (Failure failure = write_file("/proc/self/uid_map", "1000 " + std::to_string(place.outer_uid) + " 1"))
    return failure;
  return write_file("/proc/self/gid_map", "1000 " + std::to_string(place.outer_gid) + " 1");
}

// stdout, stderr and the control socket get their fixed numbers; everything else is closed.
Failure arrange_descriptors(const ParkingPlace& place) {
  const int control = ::fcntl(place.control, F_DUPFD_CLOEXEC, 10);
  const int output = ::fcntl(place.output, F_DUPFD_CLOEXEC, 10);
  const int errors = ::fcntl(place.errors, F_DUPFD_CLOEXEC, 10);
  const int null = ::open("/dev/null", O_RDONLY);
  if (control < 0 || output < 0 || errors < 0 || null < 0) return errno_failure("arrange", "the descriptors");
  if (::dup2(null, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(errors, 2) < 0 ||
      ::dup3(control, kControl, O_CLOEXEC) < 0) {
    return errno_failure("arrange", "the descriptors");
  }
  ::syscall(SYS_close_range, 4u, ~0u, 0u);
  return {};
}

// Settings of a new network namespace. Those that this kernel does not have change nothing that must hold.
void prepare_network_settings() {
  // Ports below 1024 are ordinary ones in a network namespace of one's own.
  static_cast<void>(write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"));
  // For the link, unless it is there already; set_up_network() sees to that it has no address then either. The switch for
  // `all` would be for it in any case, but whoever writes that one spins while anybody on the machine changes a network.
  static_cast<void>(write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
  // No socket stays for a minute after its end (TIME_WAIT): the next function that lives here finds every port free. What
  // the minute is for, late packets of a connection, cannot happen on a link of one hop.
  static_cast<void>(write_file("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0"));
}

Failure set_up_network(const wire::Network& network) {
  netlink::RouteSocket socket;
  if (const int error = socket.open()) return failure_with(error, "open", "a netlink socket");
  const int link = static_cast<int>(::if_nametoindex(wire::kInnerLink));
  if (link == 0) return errno_failure("find link", wire::kInnerLink);
  // The worker makes the link as soon as this process is there, perhaps before prepare_network_settings(). A kernel without
  // IPv6 refuses, and has none.
  if (network.previous == 0) static_cast<void>(socket.run(netlink::set_no_link_local(link)));
  std::vector<netlink::Request> requests;
  if (network.previous == 0) requests.push_back(netlink::set_up(1));
  requests.push_back(netlink::add_address(link, network.address, 32));
  if (network.previous == 0) {
    requests.push_back(netlink::set_up(link));
    requests.push_back(netlink::add_default_route(link, network.gateway));
    requests.push_back(netlink::add_neighbour(link, network.gateway, network.gateway_mac));
  } else if (network.previous != network.address) {
    // After the new one: with its last address a link loses its routes.
    requests.push_back(netlink::delete_address(link, network.previous, 32));
  }
  std::size_t failed = 0;
  if (const int error = socket.run(requests, &failed))
    return failure_with(error, "set up the network at step", std::to_string(failed));
  return {};
}

// Waits for the next message from the worker; ends the cell when the worker is gone.
std::string next_message(std::vector<int>* fds = nullptr) {
  std::string bytes;
  if (wire::receive_message(kControl, bytes, fds, true) <= 0) ::_exit(0);
  return bytes;
}

// The function's side of the fork. It shares its memory with the init until it executes the function or ends, so this
// tells the init what went wrong by writing to `failure`.
void become_function(const wire::Order& order, char** arguments, Failure& failure) {
  // Cleared by the fork: should the init go, this goes too.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::setsid();
  if (!order.working_directory.empty() && ::chdir(order.working_directory.c_str()) != 0) {
    failure = errno_failure("enter the working directory", order.working_directory);
    return;
  }
  ::execvp(arguments[0], arguments);
  const int error = errno;
  failure = failure_with(error, "execute", order.arguments[0]);
  failure.not_found = error == ENOENT || error == ENOTDIR;
  struct stat status {};
  if (error == ENOENT && ::stat(arguments[0], &status) == 0)
    failure.text += "; the file is there, so its interpreter or loader is not in the image";
}

// Starts the function; > 0 = its process. No page table is copied: the init waits until the function is executed.
__attribute__((noinline)) pid_t start_function(const wire::Order& order, char** arguments, Failure& failure) {
  const pid_t function = ::vfork();
  if (function == 0) {
    become_function(order, arguments, failure);
    ::_exit(126);
  }
  return function;
}

// Init of a sandbox whose function is a process of its own: reaps, forwards TERM, ends with the function.
[[noreturn]] void be_init(pid_t function, int signals) {
  pollfd events[2] = {{signals, POLLIN, 0}, {kControl, POLLIN, 0}};
  for (;;) {
    if (::poll(events, 2, -1) < 0) continue;
    if (events[0].revents != 0) {
      signalfd_siginfo signal{};
      while (::read(signals, &signal, sizeof signal) == static_cast<ssize_t>(sizeof signal)) {
        if (signal.ssi_signo == SIGTERM) ::kill(function, SIGTERM);
      }
      int status = 0;
      for (pid_t pid = ::waitpid(-1, &status, WNOHANG); pid > 0; pid = ::waitpid(-1, &status, WNOHANG)) {
        if (pid != function) continue;
        // Leaving kills whatever the function left running: this is the init of their pid namespace.
        report_end(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                   WIFSIGNALED(status) ? WTERMSIG(status) : 0);
      }
    }
    if (events[1].revents != 0) {
      std::string bytes;
      const long size = wire::receive_message(kControl, bytes, nullptr, false);
      if (size == 0 || (size < 0 && size != -EAGAIN)) ::_exit(0);
      if (size > 0 && wire::Reader(bytes).kind() == wire::Kind::terminate) ::kill(function, SIGTERM);
    }
  }
}

[[noreturn]] void run_function(const ParkingPlace& place, const wire::Order& order, unsigned long long received_us) {
  sigset_t handled;
  sigemptyset(&handled);
  sigaddset(&handled, SIGCHLD);
  sigaddset(&handled, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &handled, nullptr);
  const int signals = ::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0) give_up(errno_failure("make", "a signalfd"));
  const auto rooted_us = now_us();
  std::vector<char*> arguments;
  for (const auto& argument : order.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::clearenv();
  for (const auto& variable : order.environment) ::putenv(const_cast<char*>(variable.c_str()));
  // The init keeps no more rights than the function: it is what the function can reach first. And a filter that is
  // inherited has to be prepared once only.
  if (Failure failure = confine(place.isolation, order, kFunctionFilesMax)) give_up(failure);
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  Failure failure;
  const pid_t function = start_function(order, arguments.data(), failure);
  if (function < 0) give_up(errno_failure("fork", "the function"));
  if (failure) give_up(failure);
  // Only the function writes to its output from here on, so that its end is the end of the pipes.
  ::close(1);
  ::close(2);
  wire::Writer out(wire::Kind::started);
  out.u32(static_cast<std::uint32_t>(rooted_us - received_us)).u32(static_cast<std::uint32_t>(now_us() - rooted_us));
  wire::send_message(kControl, out.bytes());
  be_init(function, signals);
}

}  // namespace

void live_parked(const ParkingPlace& place) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  ::setsid();
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(022);
  // A worker with a real-time or raised priority does not hand it down (and the kernel lets no real-time process into a
  // cpu cgroup).
  const sched_param ordinary{};
  ::sched_setscheduler(0, SCHED_OTHER, &ordinary);
  if (::getpriority(PRIO_PROCESS, 0) < 0) ::setpriority(PRIO_PROCESS, 0, 0);
  const int priority = ::getpriority(PRIO_PROCESS, 0);
  const bool stands_back = place.may_raise_priority && !place.is_urgent;
  if (stands_back) ::setpriority(PRIO_PROCESS, 0, priority + kStandBack);
  Failure failure;
  // In this order: the cgroups' descriptors are closed by arrange_descriptors.
  if (place.isolation == wire::Isolation::user) failure = map_user(place);
  if (!failure && place.networking == wire::Networking::kept && ::setns(place.netns, CLONE_NEWNET) != 0)
    failure = errno_failure("enter", "the network namespace of an earlier cell");
  if (!failure) failure = join_cgroups(place);
  if (Failure arranged = arrange_descriptors(place); arranged && !failure) failure = arranged;
  if (!failure) failure = prepare_root(place.isolation, place.tmp_bytes);
  if (!failure && place.networking == wire::Networking::fresh) prepare_network_settings();
  if (!failure) failure = mask_proc(place.isolation);
  if (failure) give_up(failure);
  if (place.networking != wire::Networking::none) {
    const std::string bytes = next_message();
    wire::Reader in(bytes);
    if (in.kind() != wire::Kind::network) ::_exit(0);
    failure = set_up_network(wire::Network::read(in));
    if (failure) give_up(failure);
  }
  failure = confine_parked();
  if (failure) give_up(failure);
  wire::send_message(kControl, wire::Writer(wire::Kind::parked).bytes());

  std::vector<int> trees;
  const std::string bytes = next_message(&trees);
  const auto received_us = now_us();
  if (stands_back) ::setpriority(PRIO_PROCESS, 0, priority);
  wire::Reader in(bytes);
  if (in.kind() != wire::Kind::order) ::_exit(0);
  const wire::Order order = wire::Order::read(in);
  if (!in.ok()) give_up(failure_with(EBADMSG, "read", "the order"));
  if (::sethostname(order.hostname.c_str(), order.hostname.size()) != 0)
    give_up(errno_failure("set the host name", order.hostname));
  failure = enter_root(place.isolation, order, trees);
  for (const int tree : trees) ::close(tree);
  if (failure) give_up(failure);
  if (order.builtin.empty()) run_function(place, order, received_us);
  const auto rooted_us = now_us();
  failure = confine(place.isolation, order, kBuiltinFilesMax);
  if (failure) give_up(failure);
  const BuiltinEnd end = serve_builtin(order, kControl, received_us, rooted_us);
  if (end.failure) give_up(end.failure);
  report_end(end.exit_code, 0);
}

}  // namespace dirigent::sandbox::cell
