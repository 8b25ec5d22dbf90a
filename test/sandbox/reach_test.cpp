// SPDX-License-Identifier: MIT
//
// How a sandbox is reached when the plain way is not there: published to other hosts, without root, after the spawner
// died.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "dirigent/base/text.h"
#include "harness.h"

namespace dirigent::sandbox::test {

namespace {

// The children of this process that run the cell program.
std::vector<pid_t> spawners() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const auto pid = parse_integer(entry.path().filename().string());
    if (!pid) continue;
    std::ifstream file(entry.path() / "stat");
    std::string number, name, state, parent;
    file >> number >> name >> state >> parent;
    std::ifstream command(entry.path() / "cmdline");
    std::string words;
    std::getline(command, words);
    if (parse_integer(parent) == ::getpid() && words.starts_with("dirigent-cell"))
      found.push_back(static_cast<pid_t>(*pid));
  }
  return found;
}

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

}  // namespace

TEST_CASE("reach: a published sandbox answers on its host's port, and no longer once it is removed") {
  NEEDS_ROOT();
  const std::string host = own_address();
  if (host.empty()) {
    WARN("skipped: this host has no address but 127.0.0.1");
    return;
  }
  const KeepForwarding keep;
  Harness harness;
  auto options = process_options("publish");
  options.publish_host = host;
  options.publish_port_first = 31'000;
  options.publish_port_last = 31'009;
  std::unique_ptr<OpenRuntime> open;
  try {
    open = std::make_unique<OpenRuntime>(harness, make_process_runtime(harness.loop, options));
  } catch (const std::runtime_error& error) {
    WARN("skipped: " << error.what());
    return;
  }
  auto order = order_for("builtin:hello");
  const auto launched = open->launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  CHECK(launched->address.published == host + ":31000");
  CHECK(get(harness, launched->address.published, kGet).ends_with("hello from tested-00001\n"));
  CHECK(harness.run(open->runtime->remove(order.id, 1s)).has_value());
  CHECK(get(harness, launched->address.published, kGet).empty());
}

TEST_CASE("reach: an address without a sandbox is refused by this host, not sent to another gateway") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make_process_runtime(harness.loop, process_options("nobody")));
  auto order = order_for("builtin:hello");
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  const std::string direct = launched->address.direct;
  const std::string host = direct.substr(0, direct.rfind(':'));
  REQUIRE(harness.run(open.runtime->remove(order.id, 0s)).has_value());
  // 4090 is never handed out: numbers are given in order, and this runtime has a handful of cells.
  in_addr address{};
  REQUIRE(::inet_pton(AF_INET, host.c_str(), &address) == 1);
  address.s_addr = htonl((ntohl(address.s_addr) & 0xfffff000u) + 4090);
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in nobody{};
  nobody.sin_family = AF_INET;
  nobody.sin_port = htons(8080);
  nobody.sin_addr = address;
  const int status = ::connect(fd, reinterpret_cast<const sockaddr*>(&nobody), sizeof nobody);
  const int error = errno;
  ::close(fd);
  CHECK(status == -1);
  CHECK((error == EHOSTUNREACH || error == ENETUNREACH));
}

TEST_CASE("reach: without root a program serves on the port it is told") {
  Harness harness;
  auto options = process_options("rootless");
  options.isolation = ProcessIsolation::user;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  CHECK_FALSE(open.runtime->weaknesses().empty());
  auto order = order_for(probe_image(), {"serve", "rootless\n"});
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  bool ready = false;
  for (int i = 0; i < 500 && !ready; ++i) ready = harness.run(open.runtime->probe(order.id, "/", 20ms)).value();
  REQUIRE(ready);
  CHECK(get(harness, launched->address.direct, kGet).ends_with("rootless\n"));
  auto report = order_for(probe_image(), {"report"});
  open.launch_to_end(report);
  const std::string output = open.output(report.id);
  CAPTURE(output);
  CHECK(output.find("uid 1000 gid 1000 pid 2 ") != std::string::npos);
  CHECK(output.find("status CapEff:\t0000000000000000\n") != std::string::npos);
  CHECK(output.find("status NoNewPrivs:\t1\n") != std::string::npos);
  auto attempts = order_for(probe_image(), {"attempts"});
  open.launch_to_end(attempts);
  CHECK(open.output(attempts.id).find("ALLOWED") == std::string::npos);
}

TEST_CASE("reach: when the spawner dies its sandboxes are told as ended, and launches work again") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make_process_runtime(harness.loop, process_options("spawner")));
  REQUIRE(open.launch(order_for("builtin:hello")).has_value());
  const auto before = spawners();
  REQUIRE(before.size() == 1);
  ::kill(before[0], SIGKILL);
  REQUIRE(harness.until([&] { return !open.ends.empty(); }));
  CHECK(open.ends[0].second.detail.find("spawner") != std::string::npos);
  auto order = order_for("builtin:hello");
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  CHECK(harness.run(open.runtime->probe(order.id, "/", 2s)).value());
}

}  // namespace dirigent::sandbox::test
