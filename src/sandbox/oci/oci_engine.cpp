// SPDX-License-Identifier: MIT
#include "sandbox/oci/oci_engine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "sandbox/oci/container_runtime.h"
#include "sandbox/oci/exit_status.h"
#include "sandbox/oci/launcher.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kRemovers = 2;
// While a container is being made, crun and its children are in the cgroup as well.
constexpr std::uint32_t kProcessesMin = 8;
const char* const kPathVariable = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Pipe {
  io::FileDescriptor read;
  io::FileDescriptor write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure(errno, "cannot make an output pipe");
  Pipe pipe{io::FileDescriptor(ends[0]), io::FileDescriptor(ends[1])};
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return pipe;
}

// What a program prints in a few lines.
Result<std::string> output_of(const std::vector<std::string>& arguments) {
  auto pipe = make_pipe();
  if (!pipe) return failure(pipe.error());
  Command command;
  command.arguments = arguments;
  command.environment = {kPathVariable};
  command.output = pipe->write.get();
  auto code = run_program(command);
  if (!code) return failure(code.error());
  std::string text(4096, '\0');
  const ssize_t size = ::read(pipe->read.get(), text.data(), text.size());
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  if (*code != 0) return failure(ErrorCode::unavailable, "{} exited with {}", arguments[0], *code);
  return text;
}

}  // namespace

std::string find_in_path(const std::string& name) {
  if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = ::getenv("PATH");
  std::string places = path != nullptr ? path : "";
  // A service's PATH often lacks the directories of administrators, where Debian keeps runc.
  places += ":/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin";
  for (const auto place : split(places, ':')) {
    const std::string file = std::string(place) + "/" + name;
    if (place.starts_with("/") && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

void remove_container_cgroups(const std::string& node, const std::string& name) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto words = split(line, ' ');
    if (words.size() < 6 || line.find(" - cgroup") == std::string::npos) continue;
    const std::string directory = fmt::format("{}/dirigent/{}/{}", words[4], node, name);
    for (int attempt = 0; attempt < 400; ++attempt) {
      if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) break;
      if (attempt == 399) log_warn("sandbox", "cannot remove the cgroup {}", directory);
      std::this_thread::sleep_for(5ms);
    }
  }
}

io::Task<void> OciEngine::open(const Cgroups& cgroups, std::vector<KeptContainer> kept) {
  cgroups_ = &cgroups;
  strangers_.clear();
  for (auto& one : kept) strangers_.insert(std::move(one.name));
  starters_ = std::make_unique<Helpers>(loop_, std::max<std::uint32_t>(1, options_.starts_max));
  removers_ = std::make_unique<Helpers>(loop_, kRemovers);
  auto open_it = [this] { return open_now(); };
  Status opened = co_await starters_->run(std::move(open_it));
  if (!opened) {
    starters_.reset();
    removers_.reset();
    space_.reset();
    co_return opened;
  }
  group_.spawn(tend_helpers());
  co_return opened;
}

Status OciEngine::open_now() {
  if (Status found = find_program(); !found) return found;
  auto space = RootSpace::make(options_.run_directory + "/oci-" + options_.node.value);
  if (!space) return failure(space.error());
  space_ = std::move(*space);
  if (!is_runc_) hide_hybrid_hierarchy();
  int before = 0;
  ::prctl(PR_GET_CHILD_SUBREAPER, &before);
  was_subreaper_ = before != 0;
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return errno_failure(errno, "cannot become the parent of containers");
  return {};
}

// crun refuses to run where a version 2 hierarchy with controllers is mounted next to those of version 1, even when it is
// told to leave cgroups alone. In the mount namespace of the containers it need not be there, unless limits are set in it.
void OciEngine::hide_hybrid_hierarchy() const {
  constexpr const char* kUnified = "/sys/fs/cgroup/unified";
  for (const auto& directory : cgroups_->node_directories()) {
    if (directory.starts_with(kUnified)) return;
  }
  if (::umount2(kUnified, MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
    log_warn("sandbox", "cannot hide {} from crun: {}", kUnified, std::generic_category().message(errno));
}

Status OciEngine::find_program() {
  const std::vector<std::string> names =
      options_.program.empty() ? std::vector<std::string>{"crun", "runc"} : std::vector<std::string>{options_.program};
  for (const auto& name : names) {
    program_ = find_in_path(name);
    if (program_.empty()) continue;
    auto version = output_of({program_, "--version"});
    if (!version) return failure(version.error());
    is_runc_ = version->starts_with("runc");
    log_info("sandbox", "containers are made by {} ({})", program_, version->substr(0, version->find('\n')));
    return {};
  }
  return failure(ErrorCode::unsupported, "there is no {} on this machine (apt-get install crun)",
                 options_.program.empty() ? "crun or runc" : options_.program);
}

io::Task<RunningContainer> OciEngine::start(ContainerOrder order) {
  // Shared, because a helper's job must be copyable.
  const auto shared = std::make_shared<ContainerOrder>(std::move(order));
  auto start_it = [this, shared] { return start_now(*shared); };
  co_return co_await starters_->run(std::move(start_it));
}

Result<RunningContainer> OciEngine::start_now(ContainerOrder& order) {
  if (Status entered = space_->enter(); !entered) return failure(entered.error());
  auto root = space_->mount_root(order.name, order.image.get(), order.spec.root_writable ? order.spec.tmp_bytes : 0);
  Result<RunningContainer> running = failure(ErrorCode::internal, "not started");
  Status secrets;
  if (root && !order.spec.secrets.empty()) {
    order.spec.secrets_directory = space_->directory() + "/" + order.name + "/secrets";
    secrets = write_secrets(order.spec.secrets_directory, order.spec);
  }
  if (!secrets) {
    running = failure(secrets.error());
  } else if (root) {
    order.spec.root = *root;
    running = run(order, space_->directory() + "/" + order.name);
  } else {
    running = failure(root.error());
  }
  if (!running) remove_now(order.name);
  return running;
}

Result<RunningContainer> OciEngine::run(ContainerOrder& order, const std::string& directory) {
  auto output = make_pipe();
  auto errors = make_pipe();
  if (!output || !errors) return failure(output ? errors.error() : output.error());
  Command command;
  command.arguments = {program_, "--root", space_->directory() + "/state", "--log", directory + "/log", "--log-format", "json"};
  command.environment = {kPathVariable};
  command.output = output->write.get();
  command.errors = errors->write.get();
  std::vector<io::FileDescriptor> joined;
  if (is_runc_) {
    order.spec.cgroup = fmt::format("/dirigent/{}/{}", options_.node.value, order.name);
  } else {
    // crun takes 10 ms and more to join the cgroups of a quiet machine, and refuses some layouts of them altogether.
    command.arguments.emplace_back("--cgroup-manager=disabled");
    auto fds = cgroups_->make(order.name);
    if (!fds) return failure(fds.error());
    for (const int fd : *fds) joined.emplace_back(fd);
    command.cgroups = *fds;
    CgroupLimits limits = order.spec.limits;
    limits.pids = std::max(limits.pids, kProcessesMin);
    if (Status limited = cgroups_->set_limits(order.name, limits, std::nullopt); !limited)
      return failure(limited.error().within("cannot limit the sandbox"));
  }
  const std::string pid_file = directory + "/pid";
  command.arguments.insert(command.arguments.end(),
                           {"run", "--detach", "--bundle", directory, "--pid-file", pid_file, order.name});
  const std::string config = make_config(order.spec);
  {
    std::ofstream file(directory + "/config.json", std::ios::binary);
    file << config << std::flush;
    if (!file) return failure(ErrorCode::unavailable, "cannot write {}/config.json", directory);
  }
  auto code = run_program(command);
  if (!code) return failure(code.error());
  if (*code != 0) return failure(explain(*code, directory, order.spec));
  {
    const std::lock_guard lock(mutex_);
    has_started_ = true;
  }
  RunningContainer running;
  const std::string pid_text = read_text(pid_file);
  const auto pid = parse_integer(trim(pid_text));
  if (!pid || *pid < 2) return failure(ErrorCode::unavailable, "{} told no process of the container", program_);
  running.pid = static_cast<std::uint32_t>(*pid);
  // Its parent is this process now, so the number stays its own until it is waited for.
  running.pidfd = io::FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, running.pid, 0)));
  if (!running.pidfd.is_open()) {
    const int error = errno;
    ::kill(static_cast<pid_t>(running.pid), SIGKILL);
    ::waitpid(static_cast<pid_t>(running.pid), nullptr, 0);
    return errno_failure(error, "cannot watch the container's process");
  }
  running.output[0] = std::move(output->read);
  running.output[1] = std::move(errors->read);
  return running;
}

// What crun or runc wrote into its log: one JSON object a line, the last one says why.
Error OciEngine::explain(int code, const std::string& directory, const ContainerSpec& spec) const {
  std::string why;
  const std::string log = read_text(directory + "/log");
  for (const auto line : split(log, '\n')) {
    const auto entry = nlohmann::json::parse(line, nullptr, false);
    if (entry.is_object() && entry.contains("msg") && entry["msg"].is_string()) why = entry["msg"].get<std::string>();
  }
  if (why.empty()) why = fmt::format("{} exited with {} and said nothing", program_, code);
  const std::string lower = to_lower(why);
  const bool missing = lower.find("executable file") != std::string::npos ||
                       (lower.find("no such file") != std::string::npos && lower.find("exec") != std::string::npos);
  return Error{missing ? ErrorCode::not_found : ErrorCode::unavailable,
               fmt::format("cannot start {} in its container: {}", spec.arguments.front(), why)};
}

io::Task<ExitStatus> OciEngine::finish(std::string name, std::uint32_t pid) {
  const bool is_stranger = strangers_.erase(name) > 0;
  auto finish_it = [this, name = std::move(name), pid, is_stranger]() -> Result<ExitStatus> {
    if (is_stranger) {
      if (Status entered = space_->enter(); !entered) return failure(entered.error());
      remove_now(name);
      return failure(ErrorCode::not_found, "how it ended was told to the process that took it over when its worker was killed");
    }
    int status = 0;
    pid_t waited = -1;
    int error = 0;
    // The process becomes a child of this one when the last of crun has gone, which may be after its own end.
    for (int attempt = 0; attempt < 1000; ++attempt) {
      waited = ::waitpid(static_cast<pid_t>(pid), &status, 0);
      error = errno;
      if (waited > 0 || (error != EINTR && error != ECHILD)) break;
      if (error == ECHILD) std::this_thread::sleep_for(2ms);
    }
    if (Status entered = space_->enter(); !entered) return failure(entered.error());
    remove_now(name);
    if (waited < 0) return errno_failure(error, "cannot learn how the container has ended");
    return exit_status_from(status);
  };
  co_return co_await removers_->run(std::move(finish_it));
}

// With the processes gone, what is left of a container is files, a mount and cgroups: no need to run crun again.
void OciEngine::remove_now(const std::string& name) {
  reap_helpers(false);
  space_->remove(name);
  std::error_code ignored;
  std::filesystem::remove_all(space_->directory() + "/state/" + name, ignored);
  if (is_runc_) remove_container_cgroups(options_.node.value, name);
  else cgroups_->remove(name);
}

// crun leaves a process behind for each container that it makes, which ends at once. To look for them costs a few system
// calls a child, so not every removal does.
void OciEngine::reap_helpers(bool now) {
  constexpr Duration kInterval = 200ms;
  const std::lock_guard lock(mutex_);
  if (!now && io::Loop::now() - reaped_at_ < kInterval) return;
  reaped_at_ = io::Loop::now();
  has_started_ = false;
  reap_orphans(program_.substr(program_.rfind('/') + 1));
}

// Each second: those of the last starts, after which nothing was removed.
io::Task<void> OciEngine::tend_helpers() {
  for (;;) {
    Status slept = co_await io::sleep_for(loop_, 1s);
    if (!slept) co_return Status{};
    removers_->submit([this] {
      bool is_due = false;
      {
        const std::lock_guard lock(mutex_);
        is_due = has_started_;
      }
      if (is_due) reap_helpers(true);
    });
  }
}

io::Task<void> OciEngine::close() {
  group_.cancel();
  co_await group_.wait();
  const std::string directory = options_.run_directory + "/oci-" + options_.node.value;
  auto reap = [this]() -> Status {
    reap_helpers(true);
    return {};
  };
  static_cast<void>(co_await removers_->run(std::move(reap)));
  // The mount namespace ends with its last thread.
  starters_.reset();
  removers_.reset();
  space_.reset();
  if (!was_subreaper_) ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::rmdir(directory.c_str());
  ::rmdir(options_.run_directory.c_str());
  co_return Status{};
}

std::unique_ptr<Runtime> make_oci_runtime(io::Loop& loop, OciRuntimeOptions options) {
  ContainerOptions common = options;
  auto engine = std::make_unique<OciEngine>(loop, std::move(options));
  return std::make_unique<ContainerRuntime>(loop, std::move(common), std::move(engine));
}

}  // namespace dirigent::sandbox
