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
  Json list = Json::array({
      mount("/proc", "proc", "proc", {"nosuid", "noexec", "nodev", "hidepid=2"}),
      mount("/dev", "tmpfs", "tmpfs", {"nosuid", "noexec", "strictatime", "mode=755", "size=65536"}),
      mount("/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}),
      mount("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=16777216"}),
      mount("/tmp", "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=1777", "size=" + std::to_string(spec.tmp_bytes)}),
  });
  if (!spec.secrets_directory.empty())
    list.push_back(mount("/run/secrets", "bind", spec.secrets_directory.c_str(), {"bind", "ro", "nosuid", "noexec", "nodev"}));
  return list;
}

Json process(const ContainerSpec& spec) {
  const Json none = Json::array();
  return {
      {"terminal", false},
      {"user", {{"uid", spec.uid}, {"gid", spec.gid}, {"additionalGids", spec.groups}}},
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

// The sandbox's ids as extents (inside, host, size): most of the range stands for 0 and up, and what is left for the ids that
// lie beyond: those of its user and its groups, and "nobody".
struct Extent {
  std::uint32_t inside;
  std::uint32_t host;
  std::uint32_t size;
};
constexpr std::uint32_t kHighIds = 96;

std::vector<Extent> extents(std::uint32_t base, std::vector<std::uint32_t> ids) {
  constexpr std::uint32_t kLow = kIdsOfSandbox - kHighIds;
  constexpr std::uint32_t kNobody = 65534;
  std::vector<Extent> all{{0, base, kLow}};
  ids.push_back(kNobody);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::uint32_t next = base + kLow;
  for (const std::uint32_t id : ids) {
    if (id >= kLow && next < base + kIdsOfSandbox) all.push_back({id, next++, 1});
  }
  return all;
}

std::vector<Extent> uid_extents(const ContainerSpec& spec) { return extents(spec.id_base, {spec.uid}); }
std::vector<Extent> gid_extents(const ContainerSpec& spec) {
  std::vector<std::uint32_t> ids = spec.groups;
  ids.push_back(spec.gid);
  return extents(spec.id_base, std::move(ids));
}

std::uint32_t to_host(const std::vector<Extent>& all, std::uint32_t id) {
  for (const auto& one : all) {
    if (id >= one.inside && id - one.inside < one.size) return one.host + (id - one.inside);
  }
  return id;
}

Json mappings(const std::vector<Extent>& all) {
  Json list = Json::array();
  for (const auto& one : all) list.push_back({{"containerID", one.inside}, {"hostID", one.host}, {"size", one.size}});
  return list;
}

}  // namespace

std::uint32_t host_uid(const ContainerSpec& spec) { return spec.id_base == 0 ? spec.uid : to_host(uid_extents(spec), spec.uid); }
std::uint32_t host_gid(const ContainerSpec& spec) { return spec.id_base == 0 ? spec.gid : to_host(gid_extents(spec), spec.gid); }

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
  if (spec.id_base != 0) {
    linux_part["namespaces"].push_back({{"type", "user"}});
    linux_part["uidMappings"] = mappings(uid_extents(spec));
    linux_part["gidMappings"] = mappings(gid_extents(spec));
  }
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
