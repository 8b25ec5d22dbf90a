// SPDX-License-Identifier: MIT
#include "sandbox/cell/confine.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <iterator>
#include <vector>

namespace dirigent::sandbox::cell {

namespace {

#if defined(__x86_64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "the system call filter knows x86-64 and aarch64"
#endif

// System calls with which a process reaches for the kernel, other processes or its own confinement. A function that
// tries gets EPERM, as it would without the capability. Those that carry out an order are refused when it has been.
constexpr unsigned kOfOrders[] = {
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_mount_setattr,
    SYS_sethostname,
};
constexpr unsigned kRefused[] = {
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_open_tree,
    SYS_setns,
    SYS_unshare,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_vhangup,
    SYS_nfsservctl,
    SYS_lookup_dcookie,
    SYS_move_pages,
    SYS_migrate_pages,
    SYS_mbind,
    SYS_set_mempolicy,
    SYS_setdomainname,
    SYS_fanotify_init,
    SYS_pidfd_getfd,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_quotactl_fd
    SYS_quotactl_fd,
#endif
#if defined(__x86_64__)
    SYS_iopl,
    SYS_ioperm,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS__sysctl,
    SYS_create_module,
    SYS_get_kernel_syms,
    SYS_query_module,
    SYS_modify_ldt,
#endif
};

constexpr unsigned kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                    CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWTIME;

sock_filter statement(unsigned code, unsigned value) { return {static_cast<std::uint16_t>(code), 0, 0, value}; }
sock_filter jump(unsigned code, unsigned value, unsigned yes, unsigned no) {
  return {static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(yes), static_cast<std::uint8_t>(no), value};
}
sock_filter load(std::size_t offset) { return statement(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset)); }
sock_filter give(unsigned action) { return statement(BPF_RET | BPF_K, action); }
constexpr unsigned kEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr unsigned refuse(int error) { return SECCOMP_RET_ERRNO | static_cast<unsigned>(error); }

// Whether the number is one of those refused, as a search that halves: each instruction is run some 900 times when the
// filter is installed (the kernel works out beforehand for which calls the answer never differs), and a few times per
// call of the function. Falls through when it is not one of them.
class Search {
 public:
  explicit Search(std::vector<sock_filter>& code) : code_(code) {}

  void emit(std::vector<unsigned> numbers) {
    std::sort(numbers.begin(), numbers.end());
    halve(numbers.data(), numbers.data() + numbers.size());
    const std::size_t refusal = code_.size();
    code_.push_back(give(refuse(EPERM)));
    for (const std::size_t from : hits_) code_[from].jt = static_cast<std::uint8_t>(refusal - from - 1);
    for (const std::size_t from : misses_) code_[from].k = static_cast<std::uint32_t>(refusal - from);
  }

 private:
  void halve(const unsigned* first, const unsigned* last) {
    if (last - first <= 3) {
      for (; first != last; ++first) {
        hits_.push_back(code_.size());
        code_.push_back(jump(kEqual, *first, 0, 0));
      }
      misses_.push_back(code_.size());
      code_.push_back(statement(BPF_JMP | BPF_JA, 0));
      return;
    }
    const unsigned* middle = first + (last - first) / 2;
    const std::size_t fork = code_.size();
    code_.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, *middle, 0, 0));
    halve(first, middle);
    code_[fork].jt = static_cast<std::uint8_t>(code_.size() - fork - 1);
    halve(middle, last);
  }

  std::vector<sock_filter>& code_;
  std::vector<std::size_t> hits_;    // to the refusal
  std::vector<std::size_t> misses_;  // past it
};

constexpr std::size_t kNumber = offsetof(seccomp_data, nr);

// Refuses some calls of the architecture that another filter has made sure of.
std::vector<sock_filter> make_second_filter() {
  std::vector<sock_filter> code;
  code.push_back(load(kNumber));
  Search(code).emit(std::vector<unsigned>(std::begin(kOfOrders), std::end(kOfOrders)));
  code.push_back(give(SECCOMP_RET_ALLOW));
  return code;
}

std::vector<sock_filter> make_filter() {
  constexpr std::size_t kFirst = offsetof(seccomp_data, args[0]);  // the low half: both architectures are little-endian
  constexpr std::size_t kThird = offsetof(seccomp_data, args[2]);
  std::vector<sock_filter> code;
  code.push_back(load(offsetof(seccomp_data, arch)));
  code.push_back(jump(kEqual, kArchitecture, 1, 0));
  code.push_back(give(SECCOMP_RET_KILL_PROCESS));
  code.push_back(load(kNumber));
#if defined(__x86_64__)
  // The x32 numbers are a second door to the same rooms.
  code.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));
  code.push_back(give(refuse(ENOSYS)));
#endif
  // clone3 keeps its flags in memory, where a filter cannot look: without it, libraries fall back to clone.
  code.push_back(jump(kEqual, SYS_clone3, 0, 1));
  code.push_back(give(refuse(ENOSYS)));
  Search(code).emit(std::vector<unsigned>(std::begin(kRefused), std::end(kRefused)));
  code.push_back(jump(kEqual, SYS_clone, 0, 4));
  code.push_back(load(kFirst));
  code.push_back(jump(BPF_JMP | BPF_JSET | BPF_K, kNewNamespaces & ~0xffu, 0, 1));
  code.push_back(give(refuse(EPERM)));
  code.push_back(give(SECCOMP_RET_ALLOW));
  // Sockets: unix, IPv4, IPv6, and netlink for routes only (what getifaddrs asks).
  code.push_back(jump(kEqual, SYS_socket, 0, 9));
  code.push_back(load(kFirst));
  code.push_back(jump(kEqual, AF_UNIX, 6, 0));
  code.push_back(jump(kEqual, AF_INET, 5, 0));
  code.push_back(jump(kEqual, AF_INET6, 4, 0));
  code.push_back(jump(kEqual, AF_NETLINK, 0, 2));
  code.push_back(load(kThird));
  code.push_back(jump(kEqual, NETLINK_ROUTE, 1, 0));
  code.push_back(give(refuse(EAFNOSUPPORT)));
  code.push_back(give(SECCOMP_RET_ALLOW));
  // Typing into the terminal of whoever looks at the output (TIOCSTI), and setting its keys (TIOCLINUX).
  code.push_back(jump(kEqual, SYS_ioctl, 0, 4));
  code.push_back(load(offsetof(seccomp_data, args[1])));
  code.push_back(jump(kEqual, 0x5412, 1, 0));
  code.push_back(jump(kEqual, 0x541c, 0, 1));
  code.push_back(give(refuse(EPERM)));
  code.push_back(give(SECCOMP_RET_ALLOW));
  return code;
}

}  // namespace

Failure drop_capabilities() {
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return errno_failure("clear", "the ambient capabilities");
  for (unsigned long capability = 0; capability < 64; ++capability) {
    if (::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 1) {
      if (errno == EINVAL && capability > CAP_LAST_CAP) break;
      continue;
    }
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0)
      return errno_failure("drop from the bounding set capability", std::to_string(capability));
  }
  return {};
}

namespace {

Failure clear_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return errno_failure("clear", "the capabilities");
  return {};
}

Failure install(const std::vector<sock_filter>& code) {
  const sock_fprog program{static_cast<unsigned short>(code.size()), const_cast<sock_filter*>(code.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0) return {};
  return errno_failure("install", "the system call filter");
}

Failure limit(__rlimit_resource resource, unsigned long wanted, const char* name) {
  rlimit now{};
  if (::getrlimit(resource, &now) != 0) return errno_failure("read limit", name);
  const rlim_t value = wanted < now.rlim_max ? wanted : now.rlim_max;
  const rlimit next{value, value};
  if (::setrlimit(resource, &next) != 0) return errno_failure("set limit", name);
  return {};
}

}  // namespace

Failure confine_parked() {
  if (Failure failure = drop_capabilities()) return failure;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno_failure("set", "no_new_privs");
  return install(make_filter());
}

Failure confine(wire::Isolation isolation, const wire::Order& order, unsigned long files_max) {
  if (Failure failure = limit(RLIMIT_NOFILE, files_max, "nofile")) return failure;
  if (Failure failure = limit(RLIMIT_CORE, 0, "core")) return failure;
  if (isolation == wire::Isolation::full) {
    if (::setgroups(0, nullptr) != 0) return errno_failure("leave", "the supplementary groups");
    if (::setresgid(order.uid, order.uid, order.uid) != 0)
      return errno_failure("become group", std::to_string(order.uid));
    if (::setresuid(order.uid, order.uid, order.uid) != 0)
      return errno_failure("become user", std::to_string(order.uid));
  }
  if (Failure failure = clear_capabilities()) return failure;
  // The change of user has cleared it: should the process above go, this one goes too.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  return install(make_second_filter());
}

}  // namespace dirigent::sandbox::cell
