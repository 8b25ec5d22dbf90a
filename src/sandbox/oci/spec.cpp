// SPDX-License-Identifier: MIT
#include "sandbox/oci/spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "sandbox/oci/seccomp.h"

namespace dirigent::sandbox {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kFilesMax = 1024;
constexpr std::int64_t kPeriodUs = 100'000;

Json mount(const char* target, const char* type, const char* source, std::vector<std::string> options) {
  return {{"destination", target}, {"type", type}, {"source", source}, {"options", std::move(options)}};
}

Json mounts(const ContainerSpec& spec) {
  return Json::array({
      mount("/proc", "proc", "proc", {"nosuid", "noexec", "nodev", "hidepid=2"}),
      mount("/dev", "tmpfs", "tmpfs", {"nosuid", "noexec", "strictatime", "mode=755", "size=65536"}),
      mount("/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}),
      mount("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=16777216"}),
      mount("/tmp", "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=1777", "size=" + std::to_string(spec.tmp_bytes)}),
  });
}

Json process(const ContainerSpec& spec) {
  const Json none = Json::array();
  return {
      {"terminal", false},
      {"user", {{"uid", spec.uid}, {"gid", spec.uid}}},
      {"args", spec.arguments},
      {"env", spec.environment},
      {"cwd", spec.working_directory.empty() ? "/" : spec.working_directory},
      {"noNewPrivileges", true},
      {"capabilities",
       {{"bounding", none}, {"effective", none}, {"permitted", none}, {"inheritable", none}, {"ambient", none}}},
      {"rlimits",
       Json::array({{{"type", "RLIMIT_NOFILE"}, {"hard", kFilesMax}, {"soft", kFilesMax}},
                    {{"type", "RLIMIT_CORE"}, {"hard", 0}, {"soft", 0}}})},
  };
}

Json resources(const CgroupLimits& limits) {
  // As Cgroups::set_limits: a CPU is 1024 shares.
  Json cpu = {{"shares", std::max<std::int64_t>(2, limits.cpu.value * 1024 / 1000)}};
  if (limits.cpu_limit.value > 0) {
    cpu["period"] = kPeriodUs;
    cpu["quota"] = std::max<std::int64_t>(1000, limits.cpu_limit.value * kPeriodUs / 1000);
  }
  return {{"memory", {{"limit", limits.memory.value}, {"swap", limits.memory.value}}},
          {"cpu", std::move(cpu)},
          {"pids", {{"limit", limits.pids}}},
          {"devices", Json::array({{{"allow", false}, {"access", "rwm"}}})}};
}

}  // namespace

std::string make_config(const ContainerSpec& spec) {
  Json linux_part = {
      {"namespaces",
       Json::array({{{"type", "pid"}},
                    {{"type", "ipc"}},
                    {{"type", "uts"}},
                    {{"type", "mount"}},
                    {{"type", "cgroup"}},
                    {{"type", "network"}, {"path", spec.network_namespace}}})},
      {"seccomp", seccomp_profile()},
      {"maskedPaths",
       {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kallsyms", "/proc/config.gz",
        "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}},
      {"readonlyPaths", {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}},
  };
  if (!spec.cgroup.empty()) {
    linux_part["cgroupsPath"] = spec.cgroup;
    linux_part["resources"] = resources(spec.limits);
  }
  Json config = {{"ociVersion", "1.0.2"},
                 {"process", process(spec)},
                 {"root", {{"path", spec.root}, {"readonly", !spec.root_writable}}},
                 {"hostname", spec.hostname},
                 {"mounts", mounts(spec)},
                 {"linux", std::move(linux_part)}};
  if (!spec.shim_group.empty()) config["annotations"] = {{"io.containerd.runc.v2.group", spec.shim_group}};
  // Arguments and variables are bytes, which need not be UTF-8: what is not is replaced, not refused.
  return config.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace dirigent::sandbox
