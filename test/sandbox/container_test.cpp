// SPDX-License-Identifier: MIT
//
// Containers from images: what a function is given, what it cannot do, how it ends, and what stays behind. The same for
// every runtime with real containers.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "containerd_daemon.h"
#include "containers.h"
#include "dirigent/base/text.h"
#include "image_builder.h"

namespace dirigent::sandbox::test {

namespace {

std::string every_container_runtime() {
  return GENERATE("oci with crun", "oci with runc", "containerd with runc", "containerd with crun");
}

bool is_limited(const OpenRuntime& open) {
  for (const auto& weakness : open.runtime->weaknesses()) {
    if (weakness.find("cgroup") == std::string::npos) continue;
    WARN("skipped: " << weakness);
    return false;
  }
  return true;
}

bool run_script(const TemporaryDirectory& directory, const std::string& script) {
  const std::string path = directory.path + "/make.sh";
  std::ofstream(path) << script << "\n" << std::flush;
  return std::system(("bash " + path).c_str()) == 0;
}

}  // namespace

TEST_CASE("container: every attempt to reach beyond the container is refused") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "attempts"));
  auto order = order_for(probe_container_image(), {"attempts"});
  const SandboxEnd end = open.launch_to_end(order);
  const std::string output = open.output(order.id);
  CAPTURE(output, end.detail);
  CHECK(end.exit_code == 0);
  CHECK(output.find("ALLOWED") == std::string::npos);
  CHECK(output.find("attempt host's shadow: refused\n") != std::string::npos);
  CHECK(output.find("tmp writable\n") != std::string::npos);
}

TEST_CASE("container: a function has its image's settings and its own facts, no capability, and a uid of its own") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  TemporaryDirectory directory;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "report"));
  TestImage image = probe_test_image();
  image.environment = {"FROM_IMAGE=yes", "BOTH=image", "PORT=1"};
  image.working_directory = "/etc";
  auto first = order_for("tar:" + image.docker_archive().write(directory));
  first.spec.environment["BOTH"] = "user";
  auto second = first;
  second.id = SandboxId{first.id.value + 1'000'000};
  open.launch_to_end(first);
  open.launch_to_end(second);
  const std::string output = open.output(first.id);
  CAPTURE(output);
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    CHECK(output.find(std::string("status ") + set + ":\t0000000000000000\n") != std::string::npos);
  CHECK(output.find("status NoNewPrivs:\t1\n") != std::string::npos);
  CHECK(output.find("status Seccomp:\t2\n") != std::string::npos);
  CHECK(output.find("pids 1\n") != std::string::npos);
  CHECK(output.find("fds 3\n") != std::string::npos);
  CHECK(output.find("nofile 1024\n") != std::string::npos);
  CHECK(output.find("cwd /etc\n") != std::string::npos);
  CHECK(output.find("host " + to_string(first.id)) != std::string::npos);
  CHECK(output.find("env FROM_IMAGE=yes\n") != std::string::npos);
  CHECK(output.find("env BOTH=user\n") != std::string::npos);
  CHECK(output.find("env PORT=8080\n") != std::string::npos);
  CHECK(output.ends_with("argument /probe\nargument report\n"));
  const auto uid = [](const std::string& text) { return text.substr(0, text.find(" gid")); };
  CHECK(uid(output).size() > std::string("uid 200000").size() - 1);
  CHECK(uid(output) != uid(open.output(second.id)));
}

TEST_CASE("container: one that is removed while it starts does not come to run") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "removed"));
  io::TaskGroup group(harness.loop, "launch");
  const auto order = order_for("builtin:hello");
  std::optional<Result<Launched>> launched;
  const auto launch = [&]() -> io::Action {
    auto result = co_await open.runtime->launch(order);
    launched.emplace(std::move(result));
  };
  group.spawn(launch());
  CHECK(harness.run(open.runtime->remove(order.id, Duration::zero())));
  CHECK(harness.until([&] { return launched.has_value(); }));
  REQUIRE(!launched->has_value());
  CHECK(launched->error().message == "it was told to stop before it ran");
  CHECK(open.launch(order_for("builtin:hello")).has_value());
  group.drain_now();
}

TEST_CASE("container: memory, processes and /tmp are bounded") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "limits", [](auto& options) { options.tmp_max = 1_MiB; }));
  auto fill = order_for(probe_container_image(), {"fill"});
  open.launch_to_end(fill);
  CHECK(open.output(fill.id) == "wrote 1048576 errno 28\n");
  if (!is_limited(open)) return;
  auto eat = order_for(probe_container_image(), {"eat"});
  eat.spec.resources.memory = 32_MiB;
  const SandboxEnd end = open.launch_to_end(eat);
  CAPTURE(end.detail);
  CHECK(end.cause == EndCause::out_of_memory);
  CHECK(open.output(eat.id).find("ate everything") == std::string::npos);
  auto breed = order_for(probe_container_image(), {"breed"});
  breed.spec.pids_max = 20;
  open.launch_to_end(breed);
  int children = 0;
  REQUIRE(std::sscanf(open.output(breed.id).c_str(), "children %d", &children) == 1);
  // What makes the container may still be counted.
  CHECK(children >= 10);
  CHECK(children <= 20);
}

TEST_CASE("container: exits, signals, TERM and KILL are told as they were") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "ends"));
  auto leaving = order_for(probe_container_image(), {"exit", "5"});
  const SandboxEnd left = open.launch_to_end(leaving);
  CHECK(left.exit_code == 5);
  CHECK(left.cause == EndCause::exited);
  CHECK(left.last_output == "leaving with 5\n");
  auto polite = order_for(probe_container_image(), {"polite"});
  auto stubborn = order_for(probe_container_image(), {"stubborn"});
  REQUIRE(open.launch(polite).has_value());
  REQUIRE(open.launch(stubborn).has_value());
  REQUIRE(harness.until([&] { return open.output(polite.id) == "ready\n" && open.output(stubborn.id) == "ready\n"; }));
  open.ends.clear();
  CHECK(harness.run(open.runtime->remove(polite.id, 10s)).has_value());
  REQUIRE(open.ends.size() == 1);
  CHECK(open.ends[0].second.exit_code == 7);
  CHECK(open.output(polite.id) == "ready\ngot TERM\n");
  CHECK(harness.run(open.runtime->remove(stubborn.id, 100ms)).has_value());
  REQUIRE(open.ends.size() == 2);
  CHECK(open.ends[1].second.signal == SIGKILL);
  CHECK(open.ends[1].second.cause == EndCause::requested);
}

TEST_CASE("container: what cannot be started says why, and nothing of it stays") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  const auto options = container_options("wrong");
  {
    OpenRuntime open(harness, make_container_runtime(name, harness, "wrong"));
    TemporaryDirectory directory;
    TestImage bare = probe_test_image();
    bare.entrypoint.clear();
    bare.command.clear();
    const std::string bare_path = bare.oci_archive().write(directory);
    struct Case {
      std::string image;
      std::vector<std::string> arguments;
      ErrorCode code;
      std::string says;
    };
    const Case cases[] = {
        {"tar:/no/such.tar", {}, ErrorCode::not_found, "/no/such.tar"},
        {"dir:/no/such/root", {"/probe"}, ErrorCode::not_found, "/no/such/root"},
        {"exec:/bin/true", {}, ErrorCode::unsupported, "--runtime process"},
        {"tar:" + bare_path, {}, ErrorCode::invalid_argument, "command"},
        {"tar:" + bare_path, {"/no/such/program"}, ErrorCode::not_found, "/no/such/program"},
        {"127.0.0.1:1/image:1", {}, ErrorCode::unavailable, "127.0.0.1:1/image:1"},
    };
    for (const auto& one : cases) {
      CAPTURE(one.image);
      const auto launched = open.launch(order_for(one.image, one.arguments));
      REQUIRE_FALSE(launched.has_value());
      CAPTURE(launched.error().message);
      CHECK(launched.error().code == one.code);
      CHECK(launched.error().message.find(one.says) != std::string::npos);
    }
    CHECK(open.ends.empty());
    CHECK(open.launch(order_for("builtin:hello")).has_value());
  }
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
  CHECK_FALSE(std::filesystem::exists(options.run_directory));
}

TEST_CASE("container: a function reaches neither services of the host nor other sandboxes") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "reach"));
  for (const auto& weakness : open.runtime->weaknesses()) {
    if (weakness.find("services of this host") == std::string::npos) continue;
    WARN("skipped: " << weakness);
    return;
  }
  const Listener service;
  auto neighbour = order_for("builtin:hello");
  const auto launched = open.launch(neighbour);
  REQUIRE(launched.has_value());
  const std::string ip = launched->address.direct.substr(0, launched->address.direct.find(':'));
  unsigned a = 0, b = 0, c = 0, d = 0;
  REQUIRE(std::sscanf(ip.c_str(), "%u.%u.%u.%u", &a, &b, &c, &d) == 4);
  const std::string gateway = fmt::format("{}.{}.{}.1", a, b, c & ~15u);
  const std::string port = std::to_string(service.port);
  auto order = order_for(probe_container_image(), {"connect", gateway, port, "127.0.0.1", port, ip, "8080"});
  open.launch_to_end(order);
  CHECK(open.output(order.id) ==
        "connect " + gateway + ": no\nconnect 127.0.0.1: no\nconnect " + ip + ": no\n");
  CHECK(harness.run(open.runtime->probe(neighbour.id, "/", 1s)).value());
}

TEST_CASE("container: two layers are stacked, with what the upper one hides") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  TemporaryDirectory directory;
  TestImage image = probe_test_image();
  image.layers.push_back(TarWriter().add('0', "etc/.wh.passwd", "").add('0', "etc/added", "x").ended());
  const std::string path = image.oci_archive().write(directory);
  const bool writable = GENERATE(false, true);
  CAPTURE(writable);
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "layers", [&](auto& options) { options.root_writable = writable; }));
  auto order = order_for("tar:" + path, {"list", "/etc", "/"});
  open.launch_to_end(order);
  CHECK(open.output(order.id) == "/etc/added\n/etc/hosts\n//dev\n//etc\n//probe\n//proc\n//run\n//tmp\n");
}

TEST_CASE("container: Debian's python3 from an image serves requests in every runtime") {
  NEEDS_ROOT();
  const std::string name = GENERATE("process", "oci with crun", "oci with runc", "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  // The interpreter, what it links and its library, as they are on this machine.
  static const TemporaryDirectory directory;
  static const std::string archive = [] {
    const std::string path = directory.path + "/python.tar";
    const std::string script =
        "set -e; python=$(readlink -f /usr/bin/python3); "
        "library=$($python -S -c 'import os; print(os.path.dirname(os.__file__))'); "
        "ldd $python | grep -o '/[^ ]*' | cat - <(echo $python; echo $library) | "
        "tar -chf " + path + " --exclude=dist-packages --exclude=test --exclude=__pycache__ --ignore-failed-read -T - 2>/dev/null; "
        "ln -sf $python " + directory.path + "/python";
    return run_script(directory, script) ? path : std::string();
  }();
  if (archive.empty()) {
    WARN("skipped: the image needs python3 and tar");
    return;
  }
  const std::string python = std::filesystem::read_symlink(directory.path + "/python").string();
  Harness harness;
  auto process = process_options("python");
  process.images.directory = directory.path + "/images";
  auto runtime = make_container_runtime(name, harness, "python");
  OpenRuntime open(harness, runtime ? std::move(runtime) : make_process_runtime(harness.loop, process));
  auto order = order_for("tar:" + archive, {python, "-S", "-B", "-m", "http.server", "8080", "--directory", "/tmp"});
  order.spec.resources.memory = 256_MiB;
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  // It answers, or has ended and will not.
  harness.until([&] { return !open.ends.empty() || harness.run(open.runtime->probe(order.id, "/", 2s)).value_or(false); }, 30s);
  const std::string answer =
      get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  CAPTURE(answer, open.output(order.id));
  CHECK(answer.find("Directory listing for /") != std::string::npos);
}

TEST_CASE("container: a launch that nobody waits for any more leaves nothing") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  const auto options = container_options("cancelled");
  Harness harness;
  {
    OpenRuntime open(harness, make_container_runtime(name, harness, "cancelled"));
    for (int steps = 0; steps < 4; ++steps) {
      io::TaskGroup group(harness.loop, "launch");
      const auto order = order_for("builtin:hello");
      const auto launch = [&]() -> io::Task<void> {
        auto launched = co_await open.runtime->launch(order);
        co_return launched ? Status{} : Status(failure(launched.error()));
      };
      group.spawn(launch());
      for (int i = 0; i <= steps; ++i) harness.loop.poll();
      group.drain_now();
      CHECK(harness.run(open.runtime->remove(order.id, Duration::zero())).has_value());
    }
    CHECK(open.ends.empty());
  }
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
}

TEST_CASE("container: nothing is left of a worker that was killed, and its node can be opened again at once") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  const auto options = container_options("killed");
  const std::string image = probe_container_image();
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t worker = ::fork();
  if (worker == 0) {
    Harness harness;
    OpenRuntime open(harness, make_container_runtime(name, harness, "killed",
                                                     [&](auto& changed) { changed.node = options.node; }));
    const bool launched = open.launch(order_for("builtin:hello")).has_value() &&
                          open.launch(order_for(image, {"stubborn"})).has_value();
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
  // What containerd itself keeps of an ended container, its mount, goes when the node is opened again.
  const auto found = [&] {
    auto all = leftovers(options.node.value);
    if (name.starts_with("containerd")) std::erase_if(all, [](const auto& one) { return one.starts_with("mount"); });
    return all;
  };
  CHECK(harness.until([&] { return found().empty(); }, 10s));
  CHECK(found() == std::vector<std::string>{});
  OpenRuntime again(harness, make_container_runtime(name, harness, "killed"));
  CHECK(again.launch(order_for("builtin:hello")).has_value());
  CHECK(harness.run(again.runtime->close()).has_value());
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
}

TEST_CASE("container: a containerd that dies loses no sandbox, and is needed again for new ones only") {
  const std::string name = "containerd with runc";
  if (!can_run_containers(name)) return;
  const auto options = container_options("away");
  Harness harness;
  {
    OpenRuntime open(harness, make_container_runtime(name, harness, "away", [](auto& changed) { changed.start_timeout = 5s; }));
    auto kept = order_for("builtin:hello");
    auto ending = order_for("builtin:hello");
    REQUIRE(open.launch(kept).has_value());
    REQUIRE(open.launch(ending).has_value());
    REQUIRE(harness.until([&] { return harness.run(open.runtime->probe(kept.id, "/", 1s)).value_or(false); }));
    ContainerdDaemon::get().kill();
    CHECK(harness.run(open.runtime->probe(kept.id, "/", 1s)).value());
    const auto launched = open.launch(order_for("builtin:hello"));
    REQUIRE_FALSE(launched.has_value());
    CHECK(launched.error().code == ErrorCode::unavailable);
    CHECK(launched.error().message.find(ContainerdDaemon::get().address()) != std::string::npos);
    // Its process ends without containerd; the rest follows.
    CHECK(harness.run(open.runtime->remove(ending.id, 1s)).has_value());
    REQUIRE(open.ends.size() == 1);
    CHECK(open.ends[0].second.cause == EndCause::requested);
    ContainerdDaemon::get().start();
    CHECK(harness.run(open.runtime->probe(kept.id, "/", 1s)).value());
    CHECK(open.launch(order_for("builtin:hello")).has_value());
  }
  ContainerdDaemon::get().start();
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
}

TEST_CASE("container: many at once start, end and leave nothing") {
  const std::string name = every_container_runtime();
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  const auto options = container_options("many");
  Harness harness;
  {
    OpenRuntime open(harness, make_container_runtime(name, harness, "many", [](auto& changed) { changed.starts_max = 4; }));
    constexpr std::size_t kCount = 12;
    std::size_t answered = 0;
    io::TaskGroup group(harness.loop, "launches");
    std::vector<StartSandbox> orders;
    for (std::size_t i = 0; i < kCount; ++i) orders.push_back(order_for("builtin:hello"));
    const auto one = [&](StartSandbox order) -> io::Task<void> {
      auto launched = co_await open.runtime->launch(std::move(order));
      answered += launched ? 1 : 0;
      co_return Status{};
    };
    for (const auto& order : orders) group.spawn(one(order));
    CHECK(harness.until([&] { return answered == kCount; }));
    // Half is removed, half ends with the runtime.
    for (std::size_t i = 0; i < kCount / 2; ++i) CHECK(harness.run(open.runtime->remove(orders[i].id, Duration::zero())).has_value());
    CHECK(harness.run(open.runtime->close()).has_value());
    CHECK(open.ends.size() == kCount);
    group.drain_now();
  }
  CHECK(leftovers(options.node.value) == std::vector<std::string>{});
  // No ended child that nobody has waited for.
  siginfo_t child{};
  ::waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT);
  const std::string forgotten = child.si_pid == 0 ? "" : file_content(fmt::format("/proc/{}/stat", child.si_pid));
  CHECK(forgotten == "");
}

}  // namespace dirigent::sandbox::test
