// SPDX-License-Identifier: MIT
#include "subjects.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "dirigent/sandbox/containerd_runtime.h"
#include "dirigent/sandbox/oci_runtime.h"
#include "dirigent/sandbox/process_runtime.h"
#include "sandbox/containerd/api.h"
#include "sandbox/oci/launcher.h"
#include "sandbox/oci/network_pool.h"
#include "sandbox/oci/oci_engine.h"
#include "sandbox/process/prober.h"

namespace dirigent::bench {

namespace {

using namespace dirigent::sandbox;

const std::string kRun = kRunDirectory;

class RuntimeSubject final : public Subject {
 public:
  explicit RuntimeSubject(std::unique_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}
  io::Task<void> open() override { return runtime_->open(); }
  io::Task<void> close() override { return runtime_->close(); }
  io::Task<void> start(std::uint64_t number, StartPhases& phases) override {
    StartSandbox order;
    order.id = SandboxId{number};
    order.function = FunctionName{"hello"};
    order.revision = RevisionNumber{1};
    order.spec.image = "builtin:hello";
    auto launched = co_await runtime_->launch(std::move(order));
    if (!launched) co_return failure(launched.error());
    phases = launched->phases;
    co_return Status{};
  }
  io::Task<bool> answers(std::uint64_t number) override { return runtime_->probe(SandboxId{number}, "/", 1s); }
  io::Task<void> remove(std::uint64_t number) override { return runtime_->remove(SandboxId{number}, Duration::zero()); }

 private:
  std::unique_ptr<Runtime> runtime_;
};

// What the two floors have in common: the network, as the runtimes have it, and the configuration.
class Bare : public Subject {
 public:
  Bare(io::Loop& loop, std::size_t at_once) : loop_(loop), at_once_(at_once) {}
  io::Task<void> open() override {
    auto network = Network::open("bench");
    if (!network) co_return failure(network.error());
    network_ = std::move(*network);
    pool_ = std::make_unique<NetworkPool>(loop_, *network_, nullptr, static_cast<std::uint32_t>(2 * at_once_), std::vector<std::uint32_t>{});
    co_return Status{};
  }
  io::Task<void> close() override {
    co_await pool_->close();
    places_.clear();
    network_->remove_gateway();
    network_->wait_for_links(5s);
    co_return Status{};
  }
  io::Task<bool> answers(std::uint64_t number) override {
    return probe_address(loop_, places_[number].address + ":8080", "/", 1s);
  }

 protected:
  io::Task<ContainerSpec> prepare(std::uint64_t number) {
    auto place = co_await pool_->take(io::Loop::now() + 10s);
    if (!place) co_return failure(place.error());
    ContainerSpec spec;
    spec.arguments = {"/cell", "builtin", "hello", "bench"};
    spec.environment = {"PORT=8080", "REVISION=bare"};
    spec.hostname = "bare";
    spec.uid = 250'000 + place->number;
    spec.tmp_bytes = 64 << 20;
    spec.network_namespace = place->path();
    spec.limits = {128_MiB, Millicpu{100}, {}, 1024};
    places_[number] = std::move(*place);
    co_return spec;
  }
  void give_back(std::uint64_t number) {
    pool_->give_back(std::move(places_[number]));
    places_.erase(number);
  }

  io::Loop& loop_;
  std::size_t at_once_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<NetworkPool> pool_;
  std::map<std::uint64_t, NetworkPlace> places_;
};

class BareProgram final : public Bare {
 public:
  BareProgram(io::Loop& loop, const std::string& name, std::size_t at_once) : Bare(loop, at_once), program_(find_in_path(name)) {}
  io::Task<void> open() override {
    if (program_.empty()) co_return failure(ErrorCode::unsupported, "not installed");
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    helpers_ = std::make_unique<Helpers>(loop_, at_once_);
    auto make = [this]() -> Status {
      auto space = RootSpace::make(kRun);
      if (!space) return failure(space.error());
      space_ = std::move(*space);
      ::umount2("/sys/fs/cgroup/unified", MNT_DETACH);  // see OciEngine::hide_hybrid_hierarchy
      return {};
    };
    Status made = co_await helpers_->run(std::move(make));
    if (!made) co_return made;
    co_return co_await Bare::open();
  }
  io::Task<void> close() override {
    co_await Bare::close();
    helpers_.reset();
    space_.reset();
    ::rmdir(kRun.c_str());
    ::prctl(PR_SET_CHILD_SUBREAPER, 0);
    co_return Status{};
  }
  io::Task<void> start(std::uint64_t number, StartPhases&) override {
    auto spec = co_await prepare(number);
    if (!spec) co_return failure(spec.error());
    auto job = [this, number, spec = std::move(*spec)]() mutable { return run(number, spec); };
    auto pid = co_await helpers_->run(std::move(job));
    if (!pid) co_return failure(pid.error());
    pids_[number] = *pid;
    co_return Status{};
  }
  io::Task<void> remove(std::uint64_t number) override {
    auto job = [this, name = name_of(number), pid = pids_[number]]() -> Status {
      ::kill(pid, SIGKILL);
      while (::waitpid(pid, nullptr, 0) < 0 && errno == ECHILD) std::this_thread::sleep_for(1ms);
      if (Status entered = space_->enter(); !entered) return entered;
      space_->remove(name);
      remove_container_cgroups("bench", name);
      std::error_code ignored;
      std::filesystem::remove_all(space_->directory() + "/state/" + name, ignored);
      return {};
    };
    Status removed = co_await helpers_->run(std::move(job));
    give_back(number);
    co_return removed;
  }

 private:
  static std::string name_of(std::uint64_t number) { return "bare-" + std::to_string(number); }
  Result<pid_t> run(std::uint64_t number, ContainerSpec& spec) {
    if (Status entered = space_->enter(); !entered) return failure(entered.error());
    const std::string name = name_of(number);
    auto root = space_->mount_root(name, nullptr, 0);
    if (!root) return failure(root.error());
    spec.root = *root;
    const bool is_runc = program_.ends_with("runc");
    if (is_runc) spec.cgroup = "/dirigent/bench/" + name;
    const std::string directory = space_->directory() + "/" + name;
    std::ofstream(directory + "/config.json") << make_config(spec) << std::flush;
    Command command;
    command.arguments = {program_, "--root", space_->directory() + "/state"};
    if (!is_runc) command.arguments.emplace_back("--cgroup-manager=disabled");
    command.arguments.insert(command.arguments.end(), {"run", "--detach", "--bundle", directory, "--pid-file", directory + "/pid", name});
    command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    auto code = run_program(command);
    if (!code) return failure(code.error());
    if (*code != 0) return failure(ErrorCode::unavailable, "{} exited with {}", program_, *code);
    pid_t pid = 0;
    std::ifstream(directory + "/pid") >> pid;
    return pid;
  }
  std::string program_;
  std::unique_ptr<Helpers> helpers_;
  std::unique_ptr<RootSpace> space_;
  std::map<std::uint64_t, pid_t> pids_;
};

class BareContainerd final : public Bare {
 public:
  BareContainerd(io::Loop& loop, const std::string& address, const std::string& program, std::size_t at_once)
      : Bare(loop, at_once), address_(address), program_(find_in_path(program)) {}
  io::Task<void> open() override {
    if (address_.empty() || program_.empty()) co_return failure(ErrorCode::unsupported, "no containerd given, or no such program");
    api_ = std::make_unique<ContainerdApi>(loop_, address_, 30s);
    std::filesystem::create_directories(kRun);
    if (Status made = make_builtin_root(kRun + "/builtin"); !made) co_return made;
    if (Status made = make_skeleton(kRun + "/skeleton"); !made) co_return made;
    Status made = co_await api_->make_namespace();
    if (!made) co_return made;
    co_return co_await Bare::open();
  }
  io::Task<void> close() override {
    co_await Bare::close();
    api_.reset();
    std::filesystem::remove_all(kRun);
    co_return Status{};
  }
  io::Task<void> start(std::uint64_t number, StartPhases&) override {
    auto spec = co_await prepare(number);
    if (!spec) co_return failure(spec.error());
    const std::string id = "bare-" + std::to_string(number);
    spec->root = "rootfs";
    spec->cgroup = "/dirigent/bench/" + id;
    ContainerdContainer container{id, "bench", make_config(*spec), program_};
    Status created = co_await api_->create_container(std::move(container));
    if (!created) co_return created;
    ContainerdTask task{id, {{"overlay", "overlay", {"lowerdir=" + kRun + "/builtin:" + kRun + "/skeleton"}}}, "", "", program_};
    auto pid = co_await api_->create_task(std::move(task));
    if (!pid) co_return failure(pid.error());
    co_return co_await api_->start_task(id);
  }
  io::Task<void> remove(std::uint64_t number) override {
    const std::string id = "bare-" + std::to_string(number);
    co_await api_->kill_task(id, SIGKILL);
    co_await api_->wait_task(id, 10s);
    co_await api_->delete_task(id);
    Status deleted = co_await api_->delete_container(id);
    remove_container_cgroups("bench", id);
    give_back(number);
    co_return deleted;
  }

 private:
  std::string address_;
  std::string program_;
  std::unique_ptr<ContainerdApi> api_;
};

}  // namespace

std::unique_ptr<Subject> make_subject(io::Loop& loop, const std::string& variant, const std::string& address, std::size_t at_once) {
  const std::string program = variant.substr(variant.rfind('_') + 1);
  const auto common = [at_once](auto& options) {
    options.node = NodeId{"bench"};
    options.run_directory = kRun;
    options.networks = static_cast<std::uint32_t>(2 * at_once);
  };
  if (variant == "process") {
    ProcessRuntimeOptions options;
    options.node = NodeId{"bench"};
    return std::make_unique<RuntimeSubject>(make_process_runtime(loop, options));
  }
  if (variant.starts_with("oci")) {
    OciRuntimeOptions options;
    common(options);
    options.program = program;
    return std::make_unique<RuntimeSubject>(make_oci_runtime(loop, options));
  }
  if (variant.starts_with("containerd")) {
    ContainerdRuntimeOptions options;
    common(options);
    options.address = address;
    options.program = find_in_path(program);
    options.shared_shim = variant.find("shared") != std::string::npos;
    return std::make_unique<RuntimeSubject>(make_containerd_runtime(loop, options));
  }
  if (variant.starts_with("bare_containerd")) return std::make_unique<BareContainerd>(loop, address, program, at_once);
  return std::make_unique<BareProgram>(loop, program, at_once);
}

}  // namespace dirigent::bench
