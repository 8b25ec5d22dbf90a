// SPDX-License-Identifier: MIT
//
// Lodgings: what is used again of a sandbox, and when.
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "dirigent/base/text.h"
#include "harness.h"
#include "sandbox/process/lodging.h"

namespace dirigent::sandbox::test {

namespace {

std::unique_ptr<Runtime> make(Harness& harness, const std::string& node, std::uint32_t parked) {
  auto options = process_options(node);
  options.parked = parked;
  options.parked_max = parked;
  return make_process_runtime(harness.loop, options);
}

// The links of the worker whose range (of 4096 addresses of 198.18.0.0/15) an address is in.
std::set<std::string> links_of_range(const std::string& address) {
  const auto parts = split(std::string_view(address).substr(0, address.find(':')), '.');
  const auto range = (parse_integer(parts.at(1)).value() - 18) * 16 + parse_integer(parts.at(2)).value() / 16;
  const std::string prefix = fmt::format("dg{:02x}-", range);
  std::set<std::string> found;
  struct if_nameindex* all = ::if_nameindex();
  for (auto* link = all; link != nullptr && link->if_index != 0; ++link) {
    if (std::string_view(link->if_name).starts_with(prefix)) found.insert(link->if_name);
  }
  if (all != nullptr) ::if_freenameindex(all);
  return found;
}

// As process_options() names it.
std::string node_name() { return "lodging-" + std::to_string(::getpid()); }

// The first process of each of the node's cells, as a cgroup of it shows.
std::vector<std::string> processes() {
  std::vector<std::string> pids;
  for (const char* top : {"/sys/fs/cgroup/pids", "/sys/fs/cgroup"}) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(top) + "/dirigent/" + node_name(), error)) {
      std::ifstream file(entry.path().string() + "/cgroup.procs");
      if (std::string pid; entry.is_directory() && file >> pid) pids.push_back(pid);
    }
    if (!pids.empty()) break;
  }
  return pids;
}

}  // namespace

TEST_CASE("lodging: sandboxes one after the other share a few links, and none gets an address that was just used") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness, "lodging", 2));
  std::set<std::string> addresses;
  std::set<std::string> seen;
  constexpr std::size_t kLaunches = 40;
  for (std::size_t i = 0; i < kLaunches; ++i) {
    const auto order = order_for("builtin:hello");
    auto launched = open.launch(order);
    REQUIRE(launched);
    addresses.insert(launched->address.direct);
    const std::string answer = get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    CHECK(answer.find("hello from tested-00001") != std::string::npos);
    seen.merge(links_of_range(launched->address.direct));
    REQUIRE(harness.run(open.runtime->remove(order.id, Duration::zero())));
  }
  CHECK(addresses.size() == kLaunches);
  // Two are parked, one serves, one or two wait until the kernel has closed the connection of the GET.
  CAPTURE(seen.size());
  CHECK(seen.size() < kLaunches / 2);
}

TEST_CASE("lodging: a function that was ended for want of memory is not held against the next one") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness, "lodging", 1));
  auto hungry = order_for(probe_image(), {"eat"});
  hungry.spec.resources.memory = 32_MiB;
  const SandboxEnd first = open.launch_to_end(hungry);
  if (first.cause != EndCause::out_of_memory) {
    WARN("skipped: memory limits are not enforced here (" << first.detail << ")");
    return;
  }
  for (int i = 0; i < 6; ++i) {
    const SandboxEnd end = open.launch_to_end(order_for(probe_image(), {"exit", "3"}));
    CHECK(end.cause == EndCause::exited);
    CHECK(end.exit_code == 3);
  }
}

TEST_CASE("lodging: limits are the next function's own, larger or smaller, one or all of them") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness, "lodging", 1));
  struct Want {
    Bytes memory;
    std::uint32_t pids;
  };
  // How many of the node's cells have this value.
  const auto count = [](const char* controller, std::initializer_list<const char*> files, std::int64_t wanted) {
    std::pair<std::size_t, std::size_t> found{};  // of all
    for (const char* file : files) {
      for (const auto& top : {fmt::format("/sys/fs/cgroup/{}/dirigent/", controller), std::string("/sys/fs/cgroup/dirigent/")}) {
        std::error_code error;
        for (const auto& entry : std::filesystem::directory_iterator(top + node_name(), error)) {
          std::ifstream value(entry.path().string() + file);
          if (std::int64_t limit = 0; value >> limit) {
            ++found.second;
            if (limit == wanted) ++found.first;
          }
        }
      }
    }
    return found;
  };
  for (const Want want : {Want{64_MiB, 300}, Want{256_MiB, 300}, Want{32_MiB, 200}, Want{32_MiB, 400}}) {
    auto order = order_for("builtin:hello");
    order.spec.resources.memory = want.memory;
    order.spec.pids_max = want.pids;
    REQUIRE(open.launch(order));
    const auto memory = count("memory", {"/memory.limit_in_bytes", "/memory.max"}, want.memory.value);
    const auto pids = count("pids", {"/pids.max"}, want.pids + 1);
    if (memory.second == 0 || pids.second == 0) {
      WARN("skipped: there is no memory or pids controller here");
      return;
    }
    CHECK(memory.first >= 1);
    CHECK(pids.first >= 1);
    REQUIRE(harness.run(open.runtime->remove(order.id, Duration::zero())));
  }
}

TEST_CASE("lodging: a sandbox that is removed while it waits for its turn leaves its lodging alone from then on") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("lodging");
  options.parked = 2;
  options.starts_at_a_time = 1;
  options.turn_patience = 1h;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  io::TaskGroup group(harness.loop, "launches");
  const auto launch = [&](StartSandbox order, std::optional<Result<Launched>>* result) -> io::Action {
    auto launched = co_await open.runtime->launch(std::move(order));
    result->emplace(std::move(launched));
  };
  std::string told;
  // A cell that is not parked yet when it is held up proves nothing: then once more.
  for (int i = 0; i < 20 && told.find("told to stop") == std::string::npos; ++i) {
    REQUIRE(harness.until([] { return processes().size() >= 2; }));
    harness.until([] { return false; }, 20ms);
    const auto held_up = processes();
    for (const auto& pid : held_up) ::kill(std::stoi(pid), SIGSTOP);
    std::optional<Result<Launched>> first, second;
    const auto going = order_for("builtin:hello"), waiting = order_for("builtin:hello");
    group.spawn(launch(going, &first));
    group.spawn(launch(waiting, &second));
    harness.until([] { return false; }, 20ms);
    const Status removed = harness.run(open.runtime->remove(waiting.id, Duration::zero()));
    for (const auto& pid : held_up) ::kill(std::stoi(pid), SIGCONT);
    CHECK(removed);
    REQUIRE(harness.until([&] { return first && second; }));
    CHECK(first->has_value());
    if (!*second) told = second->error().message;
    for (const auto& order : {going, waiting}) CHECK(harness.run(open.runtime->remove(order.id, Duration::zero())));
  }
  CHECK(told == "the sandbox did not start: the function was ended by signal 9 (KILL) after it was told to stop");
  group.drain_now();
}

TEST_CASE("lodging: neither end of a sandbox's link has an IPv6 address") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness, "lodging", 1));
  auto launched = open.launch(order_for("builtin:hello"));
  REQUIRE(launched);
  // Lines of "ADDRESS INDEX PREFIX SCOPE FLAGS NAME", one for each address.
  const auto links_with_addresses = [](const std::string& file) {
    std::set<std::string> names;
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) names.insert(std::string(split(line, ' ').back()));
    return names;
  };
  const auto cells = processes();
  REQUIRE(!cells.empty());
  for (const auto& pid : cells) {
    auto inside = links_with_addresses("/proc/" + pid + "/net/if_inet6");
    inside.erase("lo");
    CHECK(inside.empty());
  }
  const auto outside = links_with_addresses("/proc/self/net/if_inet6");
  const auto links = links_of_range(launched->address.direct);
  REQUIRE(!links.empty());
  for (const auto& link : links) CHECK(outside.count(link) == 0);
}

TEST_CASE("lodging: after a burst as many cells are kept ready as it took") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("lodging");
  options.parked = 1;
  options.parked_max = 3;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  constexpr std::size_t kBurst = 12;
  std::vector<StartSandbox> orders;
  for (std::size_t i = 0; i < kBurst; ++i) orders.push_back(order_for("builtin:hello"));
  for (const auto& order : orders) REQUIRE(open.launch(order));
  for (const auto& order : orders) REQUIRE(harness.run(open.runtime->remove(order.id, Duration::zero())));
  const Instant patience = io::Loop::now() + 20s;
  while (processes().size() < options.parked_max && io::Loop::now() < patience) REQUIRE(harness.run(io::sleep_for(harness.loop, 20ms)));
  CHECK(processes().size() == options.parked_max);
}

TEST_CASE("lodging: what comes to one that has been demolished makes nothing") {
  NEEDS_ROOT();
  const Cgroups cgroups = Cgroups::open(node_name());
  Lodgings lodgings;
  REQUIRE(lodgings.open(cgroups, nullptr));
  const auto has_directories = [&] {
    const auto all = cgroups.node_directories();
    return std::any_of(all.begin(), all.end(), [](const auto& directory) { return std::filesystem::exists(directory + "/cell-1"); });
  };
  Lodging lodging;
  lodging.cgroup = "cell-1";
  REQUIRE(lodgings.build(lodging, {}));
  REQUIRE(has_directories());
  lodgings.demolish(lodging);
  CHECK_FALSE(has_directories());
  const auto late = lodgings.build(lodging, {});
  REQUIRE_FALSE(late);
  CHECK(late.error().code == ErrorCode::cancelled);
  CHECK_FALSE(lodgings.connect(lodging, 1, static_cast<std::uint32_t>(::getpid())));
  CHECK_FALSE(lodgings.readdress(lodging, 2, {}));
  CHECK_FALSE(has_directories());
  CHECK(lodging.cgroup_fds.empty());
  CHECK(lodging.netns == -1);
  for (const auto& directory : cgroups.node_directories()) {
    CHECK(::rmdir(directory.c_str()) == 0);
    ::rmdir(std::filesystem::path(directory).parent_path().c_str());
  }
}

TEST_CASE("lodging: one in which a socket is open is busy, and clean once it is closed") {
  NEEDS_ROOT();
  const Cgroups cgroups = Cgroups::open("lodging-test");
  auto network = Network::open("lodging-test");
  REQUIRE(network);
  {
    Lodgings lodgings;
    REQUIRE(lodgings.open(cgroups, network->get()));
    Lodging lodging;
    lodging.cgroup = "cell-1";
    REQUIRE(lodgings.build(lodging, CgroupLimits{64_MiB, Millicpu{100}, {}, 100}));
    lodging.is_whole = true;
    int socket = -1;
    std::thread([&] {
      if (::unshare(CLONE_NEWNET) != 0) return;
      socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      ::listen(socket, 1);
      lodging.netns = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    }).join();
    REQUIRE(lodging.netns >= 0);
    CHECK(lodgings.inspect(lodging) == Lodgings::State::busy);
    ::close(socket);
    CHECK(lodgings.inspect(lodging) == Lodgings::State::clean);
    lodging.is_whole = false;
    CHECK(lodgings.inspect(lodging) == Lodgings::State::spoiled);
    lodgings.demolish(lodging);
  }
  for (const auto& directory : cgroups.node_directories()) {
    CHECK(::rmdir(directory.c_str()) == 0);
    ::rmdir(std::filesystem::path(directory).parent_path().c_str());
  }
  (*network)->remove_gateway();
}

TEST_CASE("lodging: nothing of the host is mounted in a cell, before and after its order") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness, "lodging", 2));
  const auto order = order_for("builtin:hello");
  REQUIRE(open.launch(order));
  REQUIRE(harness.until([] { return processes().size() >= 3; }));
  for (const auto& pid : processes()) {
    std::ifstream mounts("/proc/" + pid + "/mountinfo");
    std::size_t count = 0;
    for (std::string line; std::getline(mounts, line); ++count) {
      const auto words = split(line, ' ');
      REQUIRE(words.size() > 5);
      const std::string_view place = words[4];
      const std::string_view type = split(std::string_view(line).substr(line.find(" - ") + 3), ' ')[0];
      CAPTURE(line);
      const bool is_its_own = place == "/" || place.starts_with("/dev") || place.starts_with("/proc") || place == "/tmp";
      CHECK(is_its_own);
      const bool is_of_memory = type == "tmpfs" || type == "devpts" || type == "proc";
      CHECK(is_of_memory);
    }
    // A cell that is still being parked is looked at half-way; it has less, not more.
    CHECK(count < 40);
  }
}

}  // namespace dirigent::sandbox::test
