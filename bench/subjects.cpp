// SPDX-License-Identifier: MIT
#include "subjects.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "dirigent/sandbox/containerd_runtime.h"
#include "dirigent/sandbox/oci_runtime.h"
#include "dirigent/sandbox/process_runtime.h"
#include "sandbox/containerd/api.h"
#include "sandbox/containerd/grpc.h"
#include "sandbox/containerd/protobuf.h"
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
    pool_ = std::make_unique<NetworkPool>(loop_, *network_, nullptr, static_cast<std::uint32_t>(2 * at_once_),
                                          std::vector<std::uint32_t>{});
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
  BareProgram(io::Loop& loop, const std::string& name, std::size_t at_once)
      : Bare(loop, at_once), program_(find_in_path(name)) {}
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
    command.arguments.insert(command.arguments.end(),
                             {"run", "--detach", "--bundle", directory, "--pid-file", directory + "/pid", name});
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

class BareContainerd : public Bare {
 public:
  BareContainerd(io::Loop& loop, const std::string& address, const std::string& program, std::size_t at_once)
      : Bare(loop, at_once), address_(address), program_(find_in_path(program)) {}
  io::Task<void> open() override {
    if (address_.empty() || program_.empty())
      co_return failure(ErrorCode::unsupported, "no containerd given, or no such program");
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
    auto root = co_await root_of(id);
    if (!root) co_return failure(root.error());
    ContainerdTask task{id, std::move(*root), "", "", program_};
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
    Status removed = co_await remove_root(id);
    remove_container_cgroups("bench", id);
    give_back(number);
    co_return deleted ? removed : deleted;
  }

 protected:
  // The image's layers as the worker's own store has them.
  virtual io::Task<std::vector<ContainerdMount>> root_of(std::string) {
    co_return std::vector<ContainerdMount>{
        {"overlay", "overlay", {"lowerdir=" + kRun + "/builtin:" + kRun + "/skeleton"}}};
  }
  virtual io::Task<void> remove_root(std::string) { co_return Status{}; }

  std::string address_;

 private:
  std::string program_;
  std::unique_ptr<ContainerdApi> api_;
};

// The same with containerd's own snapshots: the image is one of them, with 64 MiB of files, and each container gets
// another one on top of it. Prints what the image and a container take on the disk, each once.
class BareSnapshots final : public BareContainerd {
 public:
  BareSnapshots(io::Loop& loop, const std::string& address, const std::string& program, const std::string& snapshotter,
                std::size_t at_once)
      : BareContainerd(loop, address, program, at_once),
        snapshotter_(snapshotter),
        client_(loop, address, {{"containerd-namespace", "dirigent"}}) {}
  io::Task<void> open() override {
    Status opened = co_await BareContainerd::open();
    if (!opened) co_return opened;
    auto mounts = co_await prepare("bench-unpacking", "");
    if (!mounts) co_return failure(mounts.error());
    // For a first layer both snapshotters answer with one directory.
    const std::string target = mounts->front().source;
    for (const char* part : {"/skeleton/.", "/builtin/."}) {
      if (std::system(("cp -a " + kRun + part + " " + target).c_str()) != 0)
        co_return failure(ErrorCode::unavailable, "cannot copy into {}", target);
    }
    for (int i = 0; i < 1024; ++i) std::ofstream(target + "/file-" + std::to_string(i)) << std::string(64 * 1024, 'x');
    const double before = disk_mib();
    std::string request = protobuf::Writer()
                              .text(1, snapshotter_)
                              .text(2, kImage)
                              .text(3, "bench-unpacking")
                              .entry(4, kRoot, "bench")
                              .bytes();
    auto committed = co_await client_.call(kService + "Commit", std::move(request), 30s);
    if (!committed) co_return failure(committed.error());
    std::printf("benchmark=snapshots snapshotter=%s image_mib=%.1f\n", snapshotter_.c_str(), before);
    co_return Status{};
  }
  io::Task<void> close() override {
    static_cast<void>(co_await remove_root(kImage));
    co_return co_await BareContainerd::close();
  }

 protected:
  io::Task<std::vector<ContainerdMount>> root_of(std::string id) override {
    const double before = told_ ? 0 : disk_mib();
    auto mounts = co_await prepare(std::move(id), kImage);
    if (!told_)
      std::printf("benchmark=snapshots snapshotter=%s container_mib=%.1f\n", snapshotter_.c_str(), disk_mib() - before);
    told_ = true;
    co_return mounts;
  }
  io::Task<void> remove_root(std::string id) override {
    std::string request = protobuf::Writer().text(1, snapshotter_).text(2, id).bytes();
    auto removed = co_await client_.call(kService + "Remove", std::move(request), 30s);
    if (!removed) co_return failure(removed.error());
    co_return Status{};
  }

 private:
  io::Task<std::vector<ContainerdMount>> prepare(std::string key, std::string parent) {
    std::string request =
        protobuf::Writer().text(1, snapshotter_).text(2, key).text(3, parent).entry(4, kRoot, "bench").bytes();
    auto answer = co_await client_.call(kService + "Prepare", std::move(request), 30s);
    if (!answer) co_return failure(answer.error());
    std::vector<ContainerdMount> mounts;
    protobuf::Reader reader(*answer);
    while (const auto field = reader.next()) {
      if (field->number != 1) continue;
      ContainerdMount mount{protobuf::text_in(field->bytes, 1), protobuf::text_in(field->bytes, 2), {}};
      protobuf::Reader inner(field->bytes);
      while (const auto option = inner.next()) {
        if (option->number == 4) mount.options.emplace_back(option->bytes);
      }
      mounts.push_back(std::move(mount));
    }
    co_return mounts;
  }
  [[nodiscard]] double disk_mib() const {
    std::uintmax_t blocks = 0;
    std::error_code ignored;
    const auto directory =
        std::filesystem::path(address_).parent_path() / "root" / ("io.containerd.snapshotter.v1." + snapshotter_);
    for (auto entry = std::filesystem::recursive_directory_iterator(directory, ignored);
         entry != std::filesystem::recursive_directory_iterator(); entry.increment(ignored)) {
      struct stat status {};
      if (::lstat(entry->path().c_str(), &status) == 0) blocks += static_cast<std::uintmax_t>(status.st_blocks);
    }
    return static_cast<double>(blocks) * 512 / (1 << 20);
  }

  const std::string kService = "/containerd.services.snapshots.v1.Snapshots/";
  static constexpr const char* kImage = "bench-image";
  static constexpr const char* kRoot = "containerd.io/gc.root";
  std::string snapshotter_;
  GrpcClient client_;
  bool told_ = false;
};

}  // namespace

std::unique_ptr<Subject> make_subject(io::Loop& loop, const std::string& variant, const std::string& address,
                                      std::size_t at_once) {
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
  for (const std::string snapshotter : {"overlayfs", "native"}) {
    if (variant.starts_with("bare_containerd_" + snapshotter))
      return std::make_unique<BareSnapshots>(loop, address, program, snapshotter, at_once);
  }
  if (variant.starts_with("bare_containerd")) return std::make_unique<BareContainerd>(loop, address, program, at_once);
  return std::make_unique<BareProgram>(loop, program, at_once);
}

}  // namespace dirigent::bench
