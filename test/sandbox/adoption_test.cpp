// SPDX-License-Identifier: MIT
//
// A worker is killed, and another one of its node goes on with its sandboxes. The same for every runtime that makes
// processes.
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "containerd_daemon.h"
#include "containers.h"

namespace dirigent::sandbox::test {

namespace {

constexpr const char* kNames[] = {"process", "process without root", "oci with crun", "oci with runc", "containerd with runc", "containerd with crun"};

std::unique_ptr<Runtime> make_runtime(const std::string& name, Harness& harness, const NodeId& node, Duration adopt_time,
                                      const std::string& publish_host = "") {
  auto runtime = make_container_runtime(name, harness, "adopted", [&](ContainerOptions& options) {
    options.node = node;
    options.adopt_time = adopt_time;
    options.publish_host = publish_host;
  });
  if (runtime) return runtime;
  ProcessRuntimeOptions options = process_options("adopted");
  options.node = node;
  options.adopt_time = adopt_time;
  options.publish_host = publish_host;
  options.images.directory = container_options("adopted").images.directory;
  if (name == "process without root") options.isolation = ProcessIsolation::user;
  return make_process_runtime(harness.loop, options);
}

// A process that opens a runtime, launches the orders, says so and waits to be killed.
class KilledWorker {
 public:
  KilledWorker(const std::string& name, const NodeId& node, Duration adopt_time, const std::vector<StartSandbox>& orders,
               const std::string& publish_host = "") {
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      Harness harness;
      OpenRuntime open(harness, make_runtime(name, harness, node, adopt_time, publish_host));
      static_cast<void>(open.runtime->take_adopted());
      bool worked = true;
      std::string told;
      for (const auto& order : orders) {
        const auto launched = open.launch(order);
        worked = worked && launched.has_value();
        if (!launched) continue;
        told += launched->address.direct + " " + launched->address.published + "\n";
        if (order.spec.arguments == std::vector<std::string>{"polite"})
          worked = worked && harness.until([&] { return open.output(order.id).find("ready") != std::string::npos; });
        if (order.spec.image != "builtin:hello") continue;
        worked = worked && harness.until([&] { return harness.run(open.runtime->probe(order.id, "/", 1s)).value_or(false); });
      }
      told += worked ? "y" : "n";
      [[maybe_unused]] const auto ignored = ::write(ready[1], told.data(), told.size());
      harness.loop.run();
      ::_exit(0);
    }
    char bytes[4096] = {};
    while (told_.empty() || (told_.back() != 'y' && told_.back() != 'n')) {
      const ssize_t size = ::read(ready[0], bytes, sizeof bytes);
      REQUIRE(size > 0);
      told_.append(bytes, static_cast<std::size_t>(size));
    }
    CHECK(told_.back() == 'y');
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~KilledWorker() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  [[nodiscard]] const std::string& told() const { return told_; }

 private:
  pid_t pid_ = 0;
  std::string told_;
};

bool can_run(const std::string& name) {
  if (name == "process" && !is_root()) {
    WARN("skipped: the process runtime at full strength needs root");
    return false;
  }
  if (!can_run_containers(name)) return false;
  // Of this process and not of the worker's, which is killed.
  if (name.starts_with("containerd")) ContainerdDaemon::get();
  return true;
}

// An adopted container of oci is a child of the machine's init: only the kernel can tell how it ended, from 6.15 on.
bool knows_exit_code(const std::string& name) {
  if (!name.starts_with("oci")) return true;
  utsname kernel{};
  int major = 0;
  int minor = 0;
  if (::uname(&kernel) != 0 || std::sscanf(kernel.release, "%d.%d", &major, &minor) != 2) return false;
  if (major > 6 || (major == 6 && minor >= 15)) return true;
  WARN("not looked at: exit codes of adopted oci sandboxes need Linux 6.15");
  return false;
}

StartSandbox of_probe(const std::string& name, std::vector<std::string> arguments) {
  return order_for(name.starts_with("process") ? probe_image() : probe_container_image(), std::move(arguments));
}

}  // namespace

TEST_CASE("adoption: the next worker goes on with every sandbox of one that was killed") {
  const std::string name = GENERATE(from_range(std::begin(kNames), std::end(kNames)));
  CAPTURE(name);
  if (!can_run(name)) return;
  const NodeId node = container_options("adopted").node;
  auto serving = order_for("builtin:hello");
  serving.function = FunctionName{"kept"};
  serving.revision = RevisionNumber{7};
  serving.term = Term{3};
  auto polite = of_probe(name, {"polite"});
  auto ending = of_probe(name, {"stubborn"});
  {
    KilledWorker worker(name, node, 60s, {serving, polite, ending});
    worker.kill();
    Harness harness;
    OpenRuntime open(harness, make_runtime(name, harness, node, 60s));
    auto adopted = open.runtime->take_adopted();
    REQUIRE(adopted.size() == 3);
    const auto find = [&](SandboxId id) {
      return std::find_if(adopted.begin(), adopted.end(), [&](const auto& one) { return one.order.id == id; });
    };
    REQUIRE(find(serving.id) != adopted.end());
    const AdoptedSandbox& kept = *find(serving.id);
    CHECK(kept.order.function == serving.function);
    CHECK(kept.order.revision == serving.revision);
    CHECK(kept.order.term == serving.term);
    CHECK(kept.order.spec.port == serving.spec.port);
    CHECK(kept.is_ready);
    CHECK_FALSE(find(polite.id)->is_ready);
    // What it has printed was read by the worker that is gone.
    CHECK(open.output(polite.id).find("ready") != std::string::npos);
    CHECK(worker.told().find(kept.address.direct + " \n") != std::string::npos);
    CHECK(harness.run(open.runtime->probe(serving.id, "/", 1s)).value());
    // A new one does not get what an old one has.
    auto another = order_for("builtin:hello");
    another.id = SandboxId{1000 + another.id.value};
    const auto launched = open.launch(another);
    REQUIRE((launched ? "" : launched.error().message) == "");
    CHECK(launched->address.direct != kept.address.direct);
    // It is told to stop, and what it prints then is in its log.
    CHECK(harness.run(open.runtime->remove(polite.id, 10s)).has_value());
    REQUIRE(open.ends.size() == 1);
    CHECK(open.ends[0].first == polite.id);
    CHECK(open.ends[0].second.cause == EndCause::requested);
    CHECK(open.output(polite.id).find("got TERM") != std::string::npos);
    if (knows_exit_code(name)) CHECK(open.ends[0].second.exit_code == 7);
    // The rest ends with the runtime.
    CHECK(harness.run(open.runtime->close()).has_value());
    CHECK(open.ends.size() == 4);
  }
  CHECK(leftovers(node.value) == std::vector<std::string>{});
}

TEST_CASE("adoption: an end without a worker is told by the next one") {
  const std::string name = GENERATE(from_range(std::begin(kNames), std::end(kNames)));
  CAPTURE(name);
  if (!can_run(name)) return;
  const NodeId node = container_options("ended").node;
  auto brief = of_probe(name, {"exit", "5", "1500"});
  {
    KilledWorker worker(name, node, 60s, {brief});
    worker.kill();
    // Its cgroups know when it is over.
    const auto lives = [&] {
      for (const auto& one : leftovers(node.value)) {
        if (one.starts_with("process") && one.find("/self") == std::string::npos) return true;
      }
      return false;
    };
    Harness harness;
    if (name != "process without root") CHECK(harness.until([&] { return !lives(); }, 30s));
    OpenRuntime open(harness, make_runtime(name, harness, node, 60s));
    REQUIRE(open.runtime->take_adopted().size() == 1);
    CHECK(harness.until([&] { return open.ends.size() == 1; }));
    REQUIRE(open.ends.size() == 1);
    CHECK(open.ends[0].second.cause == EndCause::exited);
    CHECK(open.ends[0].second.last_output.find("leaving with 5") != std::string::npos);
    if (knows_exit_code(name)) CHECK(open.ends[0].second.exit_code == 5);
  }
  CHECK(leftovers(node.value) == std::vector<std::string>{});
}

TEST_CASE("adoption: a worker that is killed again and again loses no sandbox, its published port neither") {
  NEEDS_ROOT();
  const std::string name = GENERATE("process", "oci with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  const NodeId node = container_options("again").node;
  const std::string host = own_address();
  if (host.empty()) {
    WARN("skipped: this host has no address but 127.0.0.1");
    return;
  }
  const KeepForwarding keep;
  const auto serving = order_for("builtin:hello");
  {
    KilledWorker first(name, node, 60s, {serving}, host);
    const std::string told = first.told();
    first.kill();
    for (int round = 0; round < 3; ++round) {
      KilledWorker next(name, node, 60s, {}, host);
      next.kill();
    }
    Harness harness;
    OpenRuntime open(harness, make_runtime(name, harness, node, 60s, host));
    const auto adopted = open.runtime->take_adopted();
    REQUIRE(adopted.size() == 1);
    CHECK(told == adopted[0].address.direct + " " + adopted[0].address.published + "\ny");
    const std::string answer = get(harness, adopted[0].address.published, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    CHECK(answer.find("hello from") != std::string::npos);
  }
  CHECK(leftovers(node.value) == std::vector<std::string>{});
}

TEST_CASE("adoption: nobody takes over from a worker of other settings, and nobody from one that lives") {
  NEEDS_ROOT();
  const NodeId node = container_options("others").node;
  const auto serving = order_for("builtin:hello");
  {
    KilledWorker worker("process", node, 60s, {serving});
    Harness harness;
    auto twin = make_runtime("process", harness, node, 60s);
    const Status opened = harness.run(twin->open());
    REQUIRE_FALSE(opened.has_value());
    CHECK(opened.error().code == ErrorCode::already_exists);
    worker.kill();
    OpenRuntime open(harness, make_runtime("process", harness, node, Duration::zero()));
    CHECK(open.runtime->take_adopted().empty());
    CHECK(open.launch(serving).has_value());
  }
  CHECK(leftovers(node.value) == std::vector<std::string>{});
}

TEST_CASE("adoption: without a worker in time everything ends") {
  const std::string name = GENERATE("process", "oci with crun");
  CAPTURE(name);
  if (!can_run(name)) return;
  const NodeId node = container_options("late").node;
  KilledWorker worker(name, node, 100ms, {order_for("builtin:hello")});
  CHECK_FALSE(leftovers(node.value).empty());
  worker.kill();
  Harness harness;
  CHECK(harness.until([&] { return leftovers(node.value).empty(); }, 20s));
  OpenRuntime again(harness, make_runtime(name, harness, node, 100ms));
  CHECK(again.runtime->take_adopted().empty());
}

}  // namespace dirigent::sandbox::test
