// SPDX-License-Identifier: MIT
#include "sandbox/cell/spawner.h"

#include <dirent.h>
#include <fcntl.h>
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "sandbox/cell/confine.h"
#include "sandbox/cell/keeping.h"
#include "sandbox/cell/parked.h"
#include "sandbox/cell/root.h"
#include "sandbox/cell/steps.h"
#include "sandbox/cell/wire.h"
#include "sandbox/netlink.h"

namespace dirigent::sandbox::cell {

namespace {

struct Child {
  std::uint32_t serial;
  pid_t pid;
};

constexpr unsigned kLingerUs = 2'000'000;  // several times what the control plane takes to tell of a lost node
constexpr int kDrainMs = 20;               // between looks at the output of sandboxes without a worker

constexpr std::uint32_t kNobody = 0xffffffff;  // the number of a cell whose end interests nobody

struct Ending {
  std::uint32_t serial;
  int status;
};

struct Spawner {
  std::vector<Child> children;
  std::vector<int> locks;  // held until everything is removed: of the node's name, then of its address range
  wire::Configure configuration;
  Keeping keeping;
  std::vector<Ending> endings;  // of kept cells
  int listener = -1;            // where another worker asks to take over; -1 = none may
  bool has_worker = true;
  bool said_farewell = false;
  unsigned long long deadline_us = 0;  // without a worker: when everything is taken down
  int signals = -1;
  int host_mounts = -1;    // the host's mount namespace, for the last clean-up
  bool may_raise_priority = false;
  Failure template_failure;  // of what cells are made from: none can be made

  void send(const wire::Writer& out) { wire::send_message(wire::kSpawnerSocket, out.bytes()); }
  void configure(wire::Reader& in, const std::vector<int>& fds);
  void park(wire::Reader& in, const std::vector<int>& fds);
  void kill_child(std::uint32_t serial);
  void reap();
  void forget(std::uint32_t key);
  void receive(const std::string& bytes, std::vector<int>& fds);
  // Between workers.
  bool lose_worker();
  bool meet_successor();
  bool hand_over(int connection);
  // The end.
  void take_down();
  void linger();
  void remove_tables();
};

// Cells are clones of this process: what they all have is made here, once.
void Spawner::configure(wire::Reader& in, const std::vector<int>& fds) {
  configuration = wire::Configure::read(in);
  locks.insert(locks.end(), fds.begin(), fds.end());
  if (configuration.adopt_ms > 0) listener = listen_for_successor(configuration.node);
  if (configuration.isolation != wire::Isolation::full) return;
  const int priority = ::getpriority(PRIO_PROCESS, 0);
  may_raise_priority = ::setpriority(PRIO_PROCESS, 0, priority + 1) == 0 && ::setpriority(PRIO_PROCESS, 0, priority) == 0;
  host_mounts = ::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  template_failure = host_mounts < 0 ? errno_failure("open", "/proc/self/ns/mnt") : enter_template();
  // Nothing is executed with the spawner's rights.
  if (!template_failure) template_failure = drop_capabilities();
}

void Spawner::park(wire::Reader& in, const std::vector<int>& fds) {
  const std::uint32_t serial = in.u32();
  ParkingPlace place;
  place.isolation = static_cast<wire::Isolation>(in.u8());
  place.networking = static_cast<wire::Networking>(in.u8());
  place.is_urgent = in.u8() != 0;
  const bool is_kept = place.networking == wire::Networking::kept;
  if (!in.ok() || fds.size() < (is_kept ? 4u : 3u)) {
    send(wire::Writer(wire::Kind::not_forked).u32(serial).text("the spawner got a malformed order"));
    return;
  }
  if (template_failure) {
    send(wire::Writer(wire::Kind::not_forked).u32(serial).text(template_failure.text));
    return;
  }
  place.tmp_bytes = configuration.tmp_bytes;
  place.may_raise_priority = may_raise_priority;
  place.control = fds[0];
  place.output = fds[1];
  place.errors = fds[2];
  if (is_kept) place.netns = fds[3];
  place.cgroups.assign(fds.begin() + (is_kept ? 4 : 3), fds.end());
  place.outer_uid = ::geteuid();
  place.outer_gid = ::getegid();
  unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
  if (place.isolation == wire::Isolation::user) flags |= CLONE_NEWUSER;
  if (place.networking == wire::Networking::fresh) flags |= CLONE_NEWNET;
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone, flags, 0, 0, 0, 0));
  if (pid == 0) live_parked(place);
  if (pid < 0) {
    send(wire::Writer(wire::Kind::not_forked)
             .u32(serial)
             .text(errno_failure("clone", "a cell into new namespaces").text));
    return;
  }
  children.push_back({serial, pid});
  send(wire::Writer(wire::Kind::forked).u32(serial).u32(static_cast<std::uint32_t>(pid)));
}

void Spawner::kill_child(std::uint32_t serial) {
  for (const auto& child : children) {
    if (child.serial == serial) ::kill(child.pid, SIGKILL);
  }
}

void Spawner::reap() {
  int status = 0;
  for (pid_t pid = ::waitpid(-1, &status, WNOHANG); pid > 0; pid = ::waitpid(-1, &status, WNOHANG)) {
    for (auto child = children.begin(); child != children.end(); ++child) {
      if (child->pid != pid) continue;
      if (has_worker && child->serial != kNobody)
        send(wire::Writer(wire::Kind::exited).u32(child->serial).u32(static_cast<std::uint32_t>(status)));
      // Until the worker forgets it: what it was told it may have had no time to act upon.
      if (keeping.has(child->serial)) endings.push_back({child->serial, status});
      *child = children.back();
      children.pop_back();
      break;
    }
  }
}

void Spawner::receive(const std::string& bytes, std::vector<int>& fds) {
  wire::Reader in(bytes);
  switch (in.kind()) {
    case wire::Kind::configure:
      configure(in, fds);
      fds.clear();
      break;
    case wire::Kind::park:
      park(in, fds);
      break;
    case wire::Kind::kill:
      kill_child(in.u32());
      break;
    case wire::Kind::keep:
      keeping.keep(in, fds);
      fds.clear();
      break;
    case wire::Kind::keep_fds:
      keeping.keep_fds(in, fds);
      fds.clear();
      break;
    case wire::Kind::note:
      keeping.note(in);
      break;
    case wire::Kind::forget:
      forget(in.u32());
      break;
    case wire::Kind::farewell:
      said_farewell = true;
      break;
    default:
      break;
  }
}

void Spawner::forget(std::uint32_t key) {
  keeping.forget(key);
  for (std::size_t i = endings.size(); i-- > 0;) {
    if (endings[i].serial == key) endings.erase(endings.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

// The worker's socket is closed. False: nothing waits for another worker. What nobody keeps, cells that were parked or on
// their way, ends now.
bool Spawner::lose_worker() {
  keeping.drop_incomplete();
  if (said_farewell || listener < 0 || keeping.empty()) return false;
  has_worker = false;
  deadline_us = now_us() + configuration.adopt_ms * 1000ULL;
  // The number of the worker's socket stays taken, so that nothing else gets it.
  ::dup2(signals, wire::kSpawnerSocket);
  for (auto& child : children) {
    if (keeping.has(child.serial)) continue;
    ::kill(child.pid, SIGKILL);
    // The next worker may give its number to another.
    child.serial = kNobody;
  }
  return true;
}

// Somebody has connected to the listener. False: everything has to go.
bool Spawner::meet_successor() {
  std::string identity;
  const int connection = accept_successor(listener, identity);
  if (connection < 0) return true;
  bool goes_on = true;
  if (has_worker) {
    wire::send_message(connection, wire::kAdoptBusy);
  } else if (identity != configuration.identity) {
    wire::send_message(connection, wire::kAdoptNo);
    goes_on = false;
  } else if (hand_over(connection)) {
    ::dup3(connection, wire::kSpawnerSocket, O_CLOEXEC);
    has_worker = true;
    for (const auto& ending : endings)
      send(wire::Writer(wire::Kind::exited).u32(ending.serial).u32(static_cast<std::uint32_t>(ending.status)));
  }
  ::close(connection);
  return goes_on;
}

// Everything stays here as well: the next worker may be killed in its turn.
bool Spawner::hand_over(int connection) {
  const auto pid_of = [this](std::uint32_t serial) -> std::uint32_t {
    for (const auto& child : children) {
      if (child.serial == serial) return static_cast<std::uint32_t>(child.pid);
    }
    return 0;
  };
  if (keeping.tell(connection, pid_of) != 0) return false;
  wire::Writer last(wire::Kind::handed_over);
  configuration.write(last);
  return wire::send_message(connection, last.bytes(), locks.data(), static_cast<int>(locks.size())) == 0;
}

// Containers are no children of the spawner, but in the worker's cgroups.
void kill_members(const std::string& cgroup) {
  const int fd = ::open((cgroup + "/cgroup.procs").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = ::read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(size));
  ::close(fd);
  for (const char* next = text.c_str(); *next != '\0';) {
    char* end = nullptr;
    const long pid = ::strtol(next, &end, 10);
    if (end == next) break;
    if (pid > 1 && pid != ::getpid()) ::kill(static_cast<pid_t>(pid), SIGKILL);
    next = *end == '\0' ? end : end + 1;
  }
}

// Ends what is in a tree of cgroup directories and removes it; true when it is gone.
bool remove_tree(const std::string& path) {
  kill_members(path);
  if (DIR* directory = ::opendir(path.c_str())) {
    while (const dirent* entry = ::readdir(directory)) {
      const std::string name = entry->d_name;
      if (entry->d_type == DT_DIR && name != "." && name != "..") remove_tree(path + "/" + name);
    }
    ::closedir(directory);
  }
  return ::rmdir(path.c_str()) == 0 || errno == ENOENT;
}

// Also removes the directories on which something was mounted.
void unmount_in(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    ::umount2((path + "/" + name).c_str(), MNT_DETACH);
    ::rmdir((path + "/" + name).c_str());
  }
  ::closedir(directory);
  ::rmdir(path.c_str());
}

// The worker is gone, with or without a farewell: nothing of it may stay.
void Spawner::take_down() {
  if (listener >= 0) ::close(listener);
  for (const auto& child : children) ::kill(child.pid, SIGKILL);
  while (!children.empty()) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, 0);
    if (pid < 0 && errno == ECHILD) break;
    for (auto child = children.begin(); child != children.end(); ++child) {
      if (child->pid != pid) continue;
      children.erase(child);
      break;
    }
  }
  if (host_mounts >= 0) ::setns(host_mounts, CLONE_NEWNS);
  for (const auto& directory : configuration.mounts) unmount_in(directory);
  for (const auto& directory : configuration.cgroup_dirs) {
    // A cgroup is busy for a moment after its last process was reaped.
    for (int attempt = 0; attempt < 200 && !remove_tree(directory); ++attempt) ::usleep(10'000);
    // The common parent goes with its last node.
    ::rmdir(directory.substr(0, directory.rfind('/')).c_str());
  }
  if (configuration.gateway != 0) {
    netlink::RouteSocket socket;
    if (socket.open() == 0) {
      // A worker that left in order has removed the address itself, after its sandboxes had left every route.
      const bool was_killed = socket.run(netlink::delete_address(1, configuration.gateway, 32)) == 0;
      remove_tables();
      if (was_killed) linger();
      const std::uint32_t mask = htonl(~std::uint32_t{0} << (32 - wire::kRangePrefix));
      socket.run(netlink::delete_unreachable_route(configuration.gateway & mask, wire::kRangePrefix));
    }
  }
  remove_tables();
}

// Data planes send to the dead sandboxes until they are told. Without the unreachable route their requests would leave the
// host by its default route, and whoever answers there would pass for the function. The lock of the node's name is given
// up, so that the worker can start again meanwhile; that of the address range is held.
void Spawner::linger() {
  if (!locks.empty()) ::close(locks.front());
  ::usleep(kLingerUs);
}

void Spawner::remove_tables() {
  if (!configuration.nft_table.empty()) netlink::delete_nft_table(NFPROTO_INET, configuration.nft_table);
  if (!configuration.nft_publish_table.empty())
    netlink::delete_nft_table(NFPROTO_IPV4, configuration.nft_publish_table);
  configuration.nft_table.clear();
  configuration.nft_publish_table.clear();
}

}  // namespace

int run_spawner() {
  // Signals meant for the worker's terminal or service are the worker's business.
  ::setsid();
  ::signal(SIGTERM, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  // It holds some descriptors of every sandbox.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  ::fcntl(wire::kSpawnerSocket, F_SETFD, FD_CLOEXEC);
  Spawner spawner;
  sigset_t handled;
  sigemptyset(&handled);
  sigaddset(&handled, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &handled, nullptr);
  spawner.signals = ::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
  if (spawner.signals < 0) return 1;
  for (;;) {
    const int timeout = spawner.has_worker ? -1 : kDrainMs;
    pollfd events[3] = {{spawner.has_worker ? wire::kSpawnerSocket : -1, POLLIN, 0},
                        {spawner.signals, POLLIN, 0},
                        {spawner.listener, POLLIN, 0}};
    if (::poll(events, 3, timeout) < 0) continue;
    if (events[1].revents != 0) {
      signalfd_siginfo signal{};
      while (::read(spawner.signals, &signal, sizeof signal) > 0) {
      }
      spawner.reap();
    }
    if (events[0].revents != 0) {
      std::string bytes;
      std::vector<int> fds;
      const long size = wire::receive_message(wire::kSpawnerSocket, bytes, &fds, false);
      if (size > 0) spawner.receive(bytes, fds);
      for (const int fd : fds) ::close(fd);
      if (size <= 0 && size != -EAGAIN && !spawner.lose_worker()) break;
      // What the worker has said comes before what another one asks.
      continue;
    }
    if (events[2].revents != 0 && !spawner.meet_successor()) break;
    if (spawner.has_worker) continue;
    spawner.keeping.drain_output();
    if (now_us() > spawner.deadline_us) break;
  }
  spawner.take_down();
  return 0;
}

}  // namespace dirigent::sandbox::cell
