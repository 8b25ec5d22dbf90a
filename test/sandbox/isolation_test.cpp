// SPDX-License-Identifier: MIT
//
// What a function cannot do, seen from inside, and what does not stay behind, seen from outside.
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "dirigent/base/text.h"
#include "harness.h"

namespace dirigent::sandbox::test {

namespace {

std::unique_ptr<Runtime> make(Harness& harness, const std::string& node = "isolation") {
  return make_process_runtime(harness.loop, process_options(node));
}

bool has_controllers(const OpenRuntime& open) {
  for (const auto& weakness : open.runtime->weaknesses()) {
    if (weakness.find("cgroup") != std::string::npos) {
      WARN("skipped: " << weakness);
      return false;
    }
  }
  return true;
}

std::set<std::string> our_links() {
  std::set<std::string> names;
  struct if_nameindex* links = ::if_nameindex();
  for (auto* link = links; link != nullptr && link->if_index != 0; ++link) {
    if (std::string_view(link->if_name).starts_with("dg")) names.insert(link->if_name);
  }
  if (links != nullptr) ::if_freenameindex(links);
  return names;
}

// Tables, addresses and links are shared with other workers on the machine: compare before and after.
std::string network_state() {
  std::string state;
  FILE* pipe = ::popen("nft list tables 2>/dev/null | grep dirigent; ip -o addr show dev lo | grep 198.18", "r");
  char line[512];
  while (pipe != nullptr && std::fgets(line, sizeof line, pipe) != nullptr) state += line;
  if (pipe != nullptr) ::pclose(pipe);
  for (const auto& link : our_links()) state += link + "\n";
  return state;
}

}  // namespace

TEST_CASE("isolation: every attempt to reach beyond the sandbox is refused") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto order = order_for(probe_image(), {"attempts"});
  const SandboxEnd end = open.launch_to_end(order);
  const std::string output = open.output(order.id);
  CAPTURE(output, end.detail);
  CHECK(end.exit_code == 0);
  CHECK(output.find("ALLOWED") == std::string::npos);
  CHECK(output.find("attempt host's shadow: refused\n") != std::string::npos);
  CHECK(output.find("tmp writable\n") != std::string::npos);
}

TEST_CASE(
    "isolation: a function has no capability, no way to new ones, a filter, a uid of its own and sees itself only") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto first = order_for(probe_image(), {"report"});
  auto second = order_for(probe_image(), {"report"});
  open.launch_to_end(first);
  open.launch_to_end(second);
  const std::string output = open.output(first.id);
  CAPTURE(output);
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    CHECK(output.find(std::string("status ") + set + ":\t0000000000000000\n") != std::string::npos);
  CHECK(output.find("status NoNewPrivs:\t1\n") != std::string::npos);
  CHECK(output.find("status Seccomp:\t2\n") != std::string::npos);
  int number = 0;
  REQUIRE(std::sscanf(output.c_str(), "uid %d", &number) == 1);
  CHECK(number >= 200'000);
  CHECK(output.find(" pid 2 ") != std::string::npos);
  // Its own process, and perhaps its init.
  CHECK((output.find("pids 1\n") != std::string::npos || output.find("pids 2\n") != std::string::npos));
  const auto uid = [](const std::string& text) { return text.substr(0, text.find(" gid")); };
  CHECK(uid(output) != uid(open.output(second.id)));
}

TEST_CASE("isolation: memory beyond the limit ends the function, and its end says so") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  if (!has_controllers(open)) return;
  auto order = order_for(probe_image(), {"eat"});
  order.spec.resources.memory = 32_MiB;
  const SandboxEnd end = open.launch_to_end(order);
  CAPTURE(end.detail);
  CHECK(end.cause == EndCause::out_of_memory);
  CHECK(open.output(order.id).find("ate everything") == std::string::npos);
}

TEST_CASE("isolation: the number of processes is limited") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  if (!has_controllers(open)) return;
  auto order = order_for(probe_image(), {"breed"});
  order.spec.pids_max = 20;
  open.launch_to_end(order);
  CHECK(open.output(order.id) == "children 19\n");
}

TEST_CASE("isolation: /tmp is bounded") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("tmp");
  options.tmp_max = 1_MiB;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  auto order = order_for(probe_image(), {"fill"});
  open.launch_to_end(order);
  CHECK(open.output(order.id) == "wrote 1048576 errno 28\n");
}

TEST_CASE("isolation: a function reaches neither services of the host nor other sandboxes") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  for (const auto& weakness : open.runtime->weaknesses()) {
    if (weakness.find("services of this host") == std::string::npos) continue;
    WARN("skipped: " << weakness);
    return;
  }
  const Listener service;
  auto neighbour = order_for("builtin:hello");
  const auto launched = open.launch(neighbour);
  REQUIRE(launched.has_value());
  const std::string& direct = launched->address.direct;
  const std::string neighbour_ip = direct.substr(0, direct.find(':'));
  // The gateway is the first address of the range of 4096.
  unsigned a = 0, b = 0, c = 0, d = 0;
  REQUIRE(std::sscanf(neighbour_ip.c_str(), "%u.%u.%u.%u", &a, &b, &c, &d) == 4);
  const std::string gateway = fmt::format("{}.{}.{}.1", a, b, c & ~15u);
  const std::string port = std::to_string(service.port);
  auto order = order_for(probe_image(),
                         {"connect", gateway, port, "127.0.0.1", port, neighbour_ip, "8080", "169.254.169.254", "80"});
  open.launch_to_end(order);
  CHECK(open.output(order.id) == "connect " + gateway + ": no\nconnect 127.0.0.1: no\nconnect " + neighbour_ip +
                                     ": no\nconnect 169.254.169.254: no\n");
  CHECK(harness.run(open.runtime->probe(neighbour.id, "/", 1s)).value());
}

TEST_CASE("isolation: nothing is left after a close in the middle of parking, at whatever moment") {
  NEEDS_ROOT();
  for (int turns = 0; turns < 24; ++turns) {
    Harness harness;
    auto options = process_options("parking");
    options.parked = 8;
    OpenRuntime open(harness, make_process_runtime(harness.loop, options));
    // So many events of the loop are handled: builds, forks, links and words of cells.
    for (int i = 0; i < 3 * turns; ++i) harness.loop.context().run_one_for(20ms);
    harness.loop.context().restart();
    CHECK(harness.run(open.runtime->close()).has_value());
    INFO("after " << 3 * turns << " events");
    CHECK(leftovers(options.node.value) == std::vector<std::string>{});
  }
}

TEST_CASE("isolation: nothing is left after close") {
  NEEDS_ROOT();
  const std::string before = network_state();
  const auto options = process_options("close");
  {
    Harness harness;
    OpenRuntime open(harness, make_process_runtime(harness.loop, options));
    REQUIRE(open.launch(order_for("builtin:hello")).has_value());
    REQUIRE(open.launch(order_for(probe_image(), {"stubborn"})).has_value());
    CHECK_FALSE(leftovers(options.node.value).empty());
    CHECK(harness.run(open.runtime->close()).has_value());
  }
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
  CHECK(network_state() == before);
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("isolation: nothing is left of a worker that was killed, and its node can be opened again at once") {
  NEEDS_ROOT();
  const std::string before = network_state();
  const auto options = process_options("killed");
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t worker = ::fork();
  if (worker == 0) {
    Harness harness;
    OpenRuntime open(harness, make_process_runtime(harness.loop, options));
    const bool launched = open.launch(order_for("builtin:hello")).has_value() &&
                          open.launch(order_for(probe_image(), {"stubborn"})).has_value();
    [[maybe_unused]] const auto ignored = ::write(ready[1], launched ? "y" : "n", 1);
    harness.loop.run();
    ::_exit(0);
  }
  char answer = 0;
  REQUIRE(::read(ready[0], &answer, 1) == 1);
  CHECK(answer == 'y');
  ::close(ready[0]);
  ::close(ready[1]);
  CHECK_FALSE(leftovers(options.node.value).empty());
  ::kill(worker, SIGKILL);
  ::waitpid(worker, nullptr, 0);
  Harness harness;
  CHECK(harness.until([&] { return leftovers(options.node.value).empty() && network_state() == before; }, 10s));
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
  CHECK(network_state() == before);
  OpenRuntime again(harness, make_process_runtime(harness.loop, options));
  CHECK(again.launch(order_for("builtin:hello")).has_value());
}

TEST_CASE("isolation: leftovers of an earlier life are removed when the node is opened") {
  NEEDS_ROOT();
  const auto options = process_options("earlier");
  Harness harness;
  std::vector<std::string> directories;
  for (const char* controller : {"memory", "pids", "cpu"}) {
    const std::string top = std::string("/sys/fs/cgroup/") + controller;
    std::error_code error;
    if (!std::filesystem::exists(top + "/cgroup.procs", error)) continue;
    directories.push_back(top + "/dirigent/" + options.node.value + "/cell-old");
    std::filesystem::create_directories(directories.back(), error);
  }
  const pid_t old = ::fork();
  if (old == 0) {
    ::pause();
    ::_exit(0);
  }
  for (const auto& directory : directories) std::ofstream(directory + "/cgroup.procs") << old << std::flush;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  for (const auto& directory : directories) CHECK_FALSE(std::filesystem::exists(directory));
  if (directories.empty()) ::kill(old, SIGKILL);
  int status = 0;
  CHECK(::waitpid(old, &status, 0) == old);
}

TEST_CASE("isolation: a second worker of the same node on the same host is refused") {
  NEEDS_ROOT();
  const auto options = process_options("twice");
  Harness harness;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  auto second = make_process_runtime(harness.loop, options);
  const Status status = harness.run(second->open());
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().code == ErrorCode::already_exists);
  CHECK(status.error().message.find(options.node.value) != std::string::npos);
}

}  // namespace dirigent::sandbox::test
