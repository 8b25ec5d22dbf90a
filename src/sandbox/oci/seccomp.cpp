// SPDX-License-Identifier: MIT
#include "sandbox/oci/seccomp.h"

#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>

#include <cerrno>
#include <nlohmann/json.hpp>

namespace dirigent::sandbox {

namespace {

using Json = nlohmann::json;

#if defined(__x86_64__)
constexpr const char* kArchitecture = "SCMP_ARCH_X86_64";
#else
constexpr const char* kArchitecture = "SCMP_ARCH_AARCH64";
#endif

// With these a process reaches for the kernel, other processes or its own confinement.
constexpr const char* kRefused[] = {
    "mount",           "umount2",           "pivot_root",       "chroot",          "fsopen",          "fsconfig",
    "fsmount",         "fspick",            "open_tree",        "move_mount",      "mount_setattr",   "setns",
    "unshare",         "ptrace",            "process_vm_readv", "process_vm_writev", "kcmp",          "bpf",
    "perf_event_open", "userfaultfd",       "io_uring_setup",   "io_uring_enter",  "io_uring_register", "keyctl",
    "add_key",         "request_key",       "kexec_load",       "kexec_file_load", "init_module",     "finit_module",
    "delete_module",   "reboot",            "swapon",           "swapoff",         "acct",            "quotactl",
    "quotactl_fd",     "open_by_handle_at", "name_to_handle_at", "syslog",         "settimeofday",    "clock_settime",
    "adjtimex",        "clock_adjtime",     "vhangup",          "nfsservctl",      "lookup_dcookie",  "move_pages",
    "migrate_pages",   "mbind",             "set_mempolicy",    "sethostname",     "setdomainname",   "fanotify_init",
    "pidfd_getfd",     "iopl",              "ioperm",           "uselib",          "ustat",           "sysfs",
    "_sysctl",         "create_module",     "get_kernel_syms",  "query_module",    "modify_ldt"};

Json rule(const char* name, int error, Json arguments) {
  Json one = {{"names", {name}}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", error}};
  if (!arguments.empty()) one["args"] = std::move(arguments);
  return one;
}

Json argument(unsigned index, std::uint64_t value, const char* comparison, std::uint64_t second = 0) {
  return {{"index", index}, {"value", value}, {"valueTwo", second}, {"op", comparison}};
}

}  // namespace

Json seccomp_profile() {
  Json calls = Json::array();
  Json names = Json::array();
  for (const char* name : kRefused) names.push_back(name);
  calls.push_back({{"names", names}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", EPERM}});
  // clone3 keeps its flags in memory, where a filter cannot look: without it, libraries fall back to clone.
  calls.push_back(rule("clone3", ENOSYS, Json::array()));
  // Rules for one call are alternatives: one for each flag that makes a namespace.
  for (const std::uint64_t flag : {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID,
                                   CLONE_NEWNET})
    calls.push_back(rule("clone", EPERM, Json::array({argument(0, flag, "SCMP_CMP_MASKED_EQ", flag)})));
  // Sockets: unix, IPv4, IPv6, and netlink for routes only (what getifaddrs asks).
  for (std::uint64_t family = 0; family < AF_NETLINK; ++family) {
    if (family != AF_UNIX && family != AF_INET && family != AF_INET6)
      calls.push_back(rule("socket", EAFNOSUPPORT, Json::array({argument(0, family, "SCMP_CMP_EQ")})));
  }
  calls.push_back(rule("socket", EAFNOSUPPORT, Json::array({argument(0, AF_NETLINK, "SCMP_CMP_GT")})));
  calls.push_back(rule("socket", EAFNOSUPPORT, Json::array({argument(0, AF_NETLINK, "SCMP_CMP_EQ"),
                                                             argument(2, NETLINK_ROUTE, "SCMP_CMP_NE")})));
  // Typing into the terminal of whoever looks at the output (TIOCSTI), and setting its keys (TIOCLINUX).
  for (const std::uint64_t request : {0x5412u, 0x541cu})
    calls.push_back(rule("ioctl", EPERM, Json::array({argument(1, request, "SCMP_CMP_EQ")})));
  return {{"defaultAction", "SCMP_ACT_ALLOW"}, {"architectures", {kArchitecture}}, {"syscalls", calls}};
}

}  // namespace dirigent::sandbox
