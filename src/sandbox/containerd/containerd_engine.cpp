// SPDX-License-Identifier: MIT
#include "sandbox/containerd/containerd_engine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "sandbox/oci/container_runtime.h"
#include "sandbox/oci/oci_engine.h"
#include "sandbox/oci/root_space.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kHelperThreads = 2;
// After the process has gone, its shim needs a moment to notice.
constexpr Duration kWaitPatience = 5s;

// A named pipe that we read. Opened for both directions, so that it neither waits for a writer nor ends with one.
Result<io::FileDescriptor> make_named_pipe(const std::string& path) {
  if (::mkfifo(path.c_str(), 0600) != 0) return errno_failure(errno, fmt::format("cannot make the pipe {}", path));
  io::FileDescriptor fd(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.is_open()) return errno_failure(errno, fmt::format("cannot open the pipe {}", path));
  return fd;
}

// The shim is the parent of its container's first process. Not open when it cannot be told.
io::FileDescriptor shim_of(std::uint32_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream rest(text.substr(end + 1));
  char state = 0;
  int parent = 0;
  rest >> state >> parent;
  std::ifstream command(fmt::format("/proc/{}/comm", parent));
  std::string name;
  std::getline(command, name);
  if (parent < 2 || !name.starts_with("containerd-shim")) return {};
  return io::FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, parent, 0)));
}

// The pipes of containers that go on stay, and so do the roots that those may have.
Status prepare_directory(const std::string& directory, const std::vector<std::string>& kept) {
  std::error_code error;
  OwnMounts(directory).remove_all(kept);
  if (kept.empty()) std::filesystem::remove_all(directory, error);
  std::filesystem::create_directories(directory, error);
  if (error) return failure(ErrorCode::unavailable, "cannot make {}: {} (set run_directory)", directory, error.message());
  if (!kept.empty()) {
    for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
      const std::string stem = entry.path().stem().string();
      const bool is_pipe = entry.is_fifo(error);
      if (is_pipe && std::find(kept.begin(), kept.end(), stem) == kept.end()) std::filesystem::remove(entry.path(), error);
    }
    return {};
  }
  if (Status made = make_skeleton(directory + "/skeleton"); !made) return made;
  return make_builtin_root(directory + "/builtin");
}

bool is_lost(const Error& error) { return error.code == ErrorCode::unavailable || error.code == ErrorCode::timed_out; }

}  // namespace

ContainerdEngine::ContainerdEngine(io::Loop& loop, ContainerdRuntimeOptions options)
    : loop_(loop),
      options_(std::move(options)),
      directory_(options_.run_directory + "/containerd-" + options_.node.value),
      own_mounts_(directory_),
      group_(loop, "containerd") {}

std::vector<std::string> ContainerdEngine::weaknesses() const {
  if (!options_.shared_shim) return {};
  return {"all containers share one containerd shim: should it fail, all of them are lost"};
}

std::string ContainerdEngine::id_of(const std::string& name) const { return options_.node.value + "-" + name; }

std::string ContainerdEngine::pipe_path(const std::string& name, const char* stream) const {
  return fmt::format("{}/{}.{}", directory_, name, stream);
}

std::string ContainerdEngine::identity() const {
  return fmt::format("containerd {} {} {}", options_.address, options_.program, options_.shared_shim);
}

io::Task<void> ContainerdEngine::open(const Cgroups&, std::vector<KeptContainer> kept) {
  helpers_ = std::make_unique<Helpers>(loop_, kHelperThreads);
  api_ = std::make_unique<ContainerdApi>(loop_, options_.address, options_.start_timeout);
  const auto give_up = [this](Error error) {
    api_.reset();
    helpers_.reset();
    return failure(std::move(error));
  };
  auto version = co_await api_->version();
  if (!version)
    co_return give_up(Error{version.error().code, fmt::format("containerd does not answer on {}: {} (is it running? apt-get install containerd)",
                                                              options_.address, version.error().message)});
  log_info("sandbox", "containers are made by containerd {} on {}", *version, options_.address);
  if (Status made = co_await api_->make_namespace(); !made) co_return give_up(made.error());
  if (Status removed = co_await remove_leftovers(kept); !removed) co_return give_up(removed.error());
  std::vector<std::string> names;
  for (const auto& one : kept) {
    names.push_back(one.name);
    if (!options_.shared_shim) shims_[one.name] = shim_of(one.pid);
  }
  auto prepare = [directory = directory_, names = std::move(names)] { return prepare_directory(directory, names); };
  Status prepared = co_await helpers_->run(std::move(prepare));
  if (!prepared) co_return give_up(prepared.error());
  group_.spawn(tend_leftovers());
  co_return Status{};
}

// Of an earlier life of this node: its processes have been ended by way of their cgroups.
io::Task<void> ContainerdEngine::remove_leftovers(const std::vector<KeptContainer>& kept) {
  auto ids = co_await api_->list_containers(options_.node.value);
  if (!ids) co_return failure(ids.error().within("cannot list the containers of an earlier life"));
  for (const auto& id : *ids) {
    const auto goes_on = [&](const KeptContainer& one) { return id_of(one.name) == id; };
    if (std::any_of(kept.begin(), kept.end(), goes_on)) continue;
    static_cast<void>(co_await api_->kill_task(id, SIGKILL));
    static_cast<void>(co_await api_->wait_task(id, kWaitPatience));
    if (Status removed = co_await remove_container(id); !removed)
      log_warn("sandbox", "cannot remove the container {} of an earlier life: {}", id, removed.error().message);
  }
  co_return Status{};
}

io::Task<void> ContainerdEngine::remove_container(std::string id) {
  auto task = co_await api_->delete_task(id);
  if (!task && task.error().code != ErrorCode::not_found) co_return failure(task.error());
  Status container = co_await api_->delete_container(std::move(id));
  if (!container && container.error().code != ErrorCode::not_found) co_return container;
  co_return Status{};
}

Result<std::vector<ContainerdMount>> ContainerdEngine::mounts_of(const ContainerOrder& order) const {
  std::string lowers;
  // Not bound: /run is often mounted without the right to execute, which a stack on top of it does not inherit.
  if (!order.image) lowers = directory_ + "/builtin:";
  const std::vector<std::string> none;
  for (const auto& layer : order.image ? order.image->layers : none) {
    if (layer.find_first_of(":,\\") != std::string::npos)
      return failure(ErrorCode::unsupported, "cannot use {} as a layer: overlay takes no path with a colon, comma or backslash", layer);
    lowers += layer + ":";
  }
  ContainerdMount overlay{"overlay", "overlay", {"lowerdir=" + lowers + directory_ + "/skeleton"}};
  if (order.spec.root_writable) {
    for (auto& option : own_mounts_.overlay_options(order.name)) overlay.options.push_back(std::move(option));
  }
  return std::vector<ContainerdMount>{std::move(overlay)};
}

Error ContainerdEngine::explain(const Error& error) const {
  Error out = error;
  const std::string lower = to_lower(error.message);
  if (lower.find("executable file") != std::string::npos ||
      (lower.find("no such file") != std::string::npos && lower.find("exec") != std::string::npos))
    out.code = ErrorCode::not_found;
  if (lower.find("hybrid mode") != std::string::npos)
    out.message += " (crun takes no mixed cgroups: use runc, or move the controllers of version 2 to version 1)";
  if (is_lost(out) && lower.find("connect") != std::string::npos) out.message = fmt::format("containerd on {}: {} (is it running?)", options_.address, out.message);
  return out;
}

io::Task<RunningContainer> ContainerdEngine::start(ContainerOrder order) {
  const std::string name = order.name;
  auto running = co_await start_it(std::move(order));
  if (running) co_return running;
  ::unlink(pipe_path(name, "out").c_str());
  ::unlink(pipe_path(name, "err").c_str());
  static_cast<void>(co_await api_->kill_task(id_of(name), SIGKILL));
  if (Status removed = co_await remove_container(id_of(name)); !removed) leftovers_.push_back(name);
  else shims_.erase(name);
  auto clean = [node = options_.node.value, name, mounts = own_mounts_]() -> Status {
    mounts.remove(name);
    remove_container_cgroups(node, name);
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(clean)));
  co_return failure(explain(running.error()));
}

io::Task<RunningContainer> ContainerdEngine::start_it(ContainerOrder order) {
  RunningContainer running;
  auto mounts = mounts_of(order);
  if (!mounts) co_return failure(mounts.error());
  auto output = make_named_pipe(pipe_path(order.name, "out"));
  if (!output) co_return failure(output.error());
  auto errors = make_named_pipe(pipe_path(order.name, "err"));
  if (!errors) co_return failure(errors.error());
  running.output[0] = std::move(*output);
  running.output[1] = std::move(*errors);
  const std::string id = id_of(order.name);
  if (!order.spec.secrets.empty()) order.spec.secrets_directory = own_mounts_.secrets(order.name);
  if (!order.spec.secrets.empty() || order.spec.root_writable) {
    auto make = [name = order.name, spec = order.spec, mounts = own_mounts_]() -> Status {
      if (Status made = mounts.make(name, spec.root_writable ? spec.tmp_bytes : 0); !made) return made;
      return spec.secrets.empty() ? Status{} : write_secrets(spec.secrets_directory, spec);
    };
    if (Status made = co_await helpers_->run(std::move(make)); !made) co_return failure(made.error());
  }
  order.spec.root = "rootfs";
  order.spec.cgroup = fmt::format("/dirigent/{}/{}", options_.node.value, order.name);
  if (options_.shared_shim) order.spec.shim_group = options_.node.value;
  ContainerdContainer container{id, options_.node.value, make_config(order.spec), options_.program};
  if (Status created = co_await api_->create_container(std::move(container)); !created)
    co_return failure(created.error().within("cannot create the container"));
  ContainerdTask task{id, std::move(*mounts), pipe_path(order.name, "out"), pipe_path(order.name, "err"), options_.program};
  auto pid = co_await api_->create_task(std::move(task));
  if (!pid) co_return failure(pid.error().within("cannot create the container"));
  running.pid = *pid;
  running.pidfd = io::FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, *pid, 0)));
  if (!running.pidfd.is_open()) co_return errno_failure(errno, "cannot watch the container's process");
  if (!options_.shared_shim) shims_[order.name] = shim_of(*pid);
  if (Status started = co_await api_->start_task(id); !started)
    co_return failure(started.error().within(fmt::format("cannot start {} in its container", order.spec.arguments.front())));
  co_return running;
}

io::Task<ExitStatus> ContainerdEngine::finish(std::string name, std::uint32_t) {
  const std::string id = id_of(name);
  auto status = co_await api_->wait_task(id, kWaitPatience);
  Status removed = co_await remove_container(id);
  ::unlink(pipe_path(name, "out").c_str());
  ::unlink(pipe_path(name, "err").c_str());
  // containerd being away does not bring the process back: it is told later.
  if (removed) shims_.erase(name);
  else leftovers_.push_back(name);
  auto clean = [node = options_.node.value, name, mounts = own_mounts_]() -> Status {
    mounts.remove(name);
    remove_container_cgroups(node, name);
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(clean)));
  if (!status) co_return failure(explain(status.error()).within("containerd cannot tell how the container has ended"));
  ExitStatus exit;
  exit.code = static_cast<int>(*status);
  // A shim tells signals in the shell's way.
  if (exit.code > 128 && exit.code <= 128 + 64) exit.signal = exit.code - 128;
  co_return exit;
}

// A containerd that was away while a container ended forgets its shim when it comes back (seen with 1.6.20).
void ContainerdEngine::end_shim(const std::string& name) {
  const auto found = shims_.find(name);
  if (found == shims_.end()) return;
  if (found->second.is_open()) ::syscall(SYS_pidfd_send_signal, found->second.get(), SIGKILL, nullptr, 0);
  shims_.erase(found);
}

// Each second: those that containerd could not be told of.
io::Task<void> ContainerdEngine::tend_leftovers() {
  for (;;) {
    Status slept = co_await io::sleep_for(loop_, 1s);
    if (!slept) co_return Status{};
    const std::vector<std::string> names = std::exchange(leftovers_, {});
    for (const auto& name : names) {
      Status removed = co_await remove_container(id_of(name));
      if (!removed && removed.error().code == ErrorCode::cancelled) co_return Status{};
      if (removed) end_shim(name);
      else leftovers_.push_back(name);
    }
  }
}

io::Task<void> ContainerdEngine::close() {
  group_.cancel();
  co_await group_.wait();
  for (const auto& name : std::exchange(leftovers_, {})) {
    if (Status removed = co_await remove_container(id_of(name)); !removed)
      log_warn("sandbox", "containerd still has the ended container {}: {}", id_of(name), removed.error().message);
    end_shim(name);
  }
  api_.reset();
  auto clean = [directory = directory_, above = options_.run_directory, mounts = own_mounts_]() -> Status {
    std::error_code ignored;
    mounts.remove_all({});
    std::filesystem::remove_all(directory, ignored);
    ::rmdir(above.c_str());
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(clean)));
  helpers_.reset();
  co_return Status{};
}

std::unique_ptr<Runtime> make_containerd_runtime(io::Loop& loop, ContainerdRuntimeOptions options) {
  ContainerOptions common = options;
  auto engine = std::make_unique<ContainerdEngine>(loop, std::move(options));
  return std::make_unique<ContainerRuntime>(loop, std::move(common), std::move(engine));
}

}  // namespace dirigent::sandbox
