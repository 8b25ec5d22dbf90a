// SPDX-License-Identifier: MIT
#include "sandbox/cell/root.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>

namespace dirigent::sandbox::cell {

namespace {

const std::string kBase = "/sys";

Failure do_mount(const char* source, const std::string& target, const char* type, unsigned long flags,
                 const std::string& data = "") {
  if (::mount(source, target.c_str(), type, flags, data.empty() ? nullptr : data.c_str()) == 0) return {};
  return errno_failure(std::string("mount ") + (type != nullptr ? type : source) + " on", target);
}

// Binds `source` at `target`, read-only and without devices or set-user-id programs, with everything mounted below it.
Failure bind_read_only(const std::string& source, const std::string& target) {
  if (Failure failure = do_mount(source.c_str(), target, nullptr, MS_BIND | MS_REC)) {
    failure.text += " (from " + source + ")";
    return failure;
  }
  mount_attr wanted{};
  wanted.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  if (::syscall(SYS_mount_setattr, AT_FDCWD, target.c_str(), AT_RECURSIVE, &wanted, sizeof wanted) == 0) return {};
  // Before Linux 5.12: the top mount only.
  return do_mount("none", target, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV);
}

Failure make_devices(wire::Isolation isolation) {
  const std::string dev = kBase + "/dev";
  if (Failure failure = do_mount("dev", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755")) return failure;
  struct Device {
    const char* name;
    unsigned minor_number;
    unsigned major_number;
  };
  constexpr Device kDevices[] = {{"null", 3, 1},   {"zero", 5, 1},    {"full", 7, 1},
                                 {"random", 8, 1}, {"urandom", 9, 1}, {"tty", 0, 5}};
  for (const auto& device : kDevices) {
    const std::string path = dev + "/" + device.name;
    if (isolation == wire::Isolation::full &&
        ::mknod(path.c_str(), S_IFCHR | 0666, ::makedev(device.major_number, device.minor_number)) == 0) {
      ::chmod(path.c_str(), 0666);
      continue;
    }
    // A user namespace (and some containers) may not make devices: borrow the host's.
    if (Failure failure = touch(path)) return failure;
    const std::string host = std::string("/dev/") + device.name;
    if (Failure failure = do_mount(host.c_str(), path, nullptr, MS_BIND)) return failure;
  }
  const char* links[][2] = {
      {"/proc/self/fd", "fd"}, {"fd/0", "stdin"}, {"fd/1", "stdout"}, {"fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};
  for (const auto& link : links) {
    if (::symlink(link[0], (dev + "/" + link[1]).c_str()) != 0) return errno_failure("make link", dev + "/" + link[1]);
  }
  ::mkdir((dev + "/pts").c_str(), 0755);
  ::mkdir((dev + "/shm").c_str(), 01777);
  if (Failure failure =
          do_mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
    return failure;
  return do_mount("shm", dev + "/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16m,mode=1777");
}

// What containers commonly hide of /proc: secrets of the kernel, and knobs that reach beyond the sandbox.
Failure mask_proc() {
  const std::string proc = kBase + "/proc";
  const std::string null = kBase + "/dev/null";
  for (const char* name : {"kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "kmsg",
                           "kallsyms", "config.gz"}) {
    const std::string path = proc + "/" + name;
    if (::access(path.c_str(), F_OK) != 0) continue;
    if (Failure failure = do_mount(null.c_str(), path, nullptr, MS_BIND)) return failure;
  }
  for (const char* name : {"acpi", "asound", "scsi"}) {
    const std::string path = proc + "/" + name;
    if (::access(path.c_str(), F_OK) != 0) continue;
    if (Failure failure =
            do_mount("masked", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,mode=000"))
      return failure;
  }
  for (const char* name : {"bus", "fs", "irq", "sys", "sysrq-trigger"}) {
    const std::string path = proc + "/" + name;
    if (::access(path.c_str(), F_OK) != 0) continue;
    if (Failure failure = bind_read_only(path, path)) return failure;
  }
  return {};
}

// Shows `path` of the host at the same place: links as links, so that a merged /usr looks the same inside.
Failure mirror(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return {};
  const std::string target = kBase + path;
  if (S_ISLNK(status.st_mode) && path.find('/', 1) == std::string::npos) {
    char where[PATH_MAX];
    const ssize_t size = ::readlink(path.c_str(), where, sizeof where - 1);
    if (size < 0) return errno_failure("read link", path);
    where[size] = '\0';
    if (::symlink(where, target.c_str()) != 0) return errno_failure("make link", target);
    return {};
  }
  if (::stat(path.c_str(), &status) != 0) return {};  // a dangling link: nothing to show
  if (Failure failure = S_ISDIR(status.st_mode) ? make_directories(target) : touch(target)) return failure;
  return bind_read_only(path, target);
}

Failure write_new(const std::string& path, const std::string& text) {
  if (Failure failure = touch(path)) return failure;
  return write_file(path, text);
}

Failure make_identity(const std::string& etc, const wire::Order& order) {
  const std::string id = std::to_string(order.uid);
  if (Failure failure = make_directories(etc)) return failure;
  if (Failure failure = write_new(etc + "/passwd",
                                  "root:x:0:0::/:/usr/sbin/nologin\nfunction:x:" + id + ":" + id + "::/tmp:/bin/sh\n"))
    return failure;
  if (Failure failure = write_new(etc + "/group", "root:x:0:\nfunction:x:" + id + ":\n")) return failure;
  return write_new(etc + "/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + order.hostname + "\n");
}

Failure make_tmp(const std::string& path, const wire::Order& order) {
  ::mkdir(path.c_str(), 01777);
  return do_mount("tmp", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=" + std::to_string(order.tmp_bytes));
}

Failure fill_from_host(const wire::Order& order) {
  for (const char* path : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}) {
    if (Failure failure = mirror(path)) return failure;
  }
  if (Failure failure = make_identity(kBase + "/etc", order)) return failure;
  for (const char* path : {"/etc/ssl", "/etc/ca-certificates.conf", "/etc/ld.so.cache", "/etc/ld.so.conf",
                           "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives", "/etc/nsswitch.conf",
                           "/etc/mime.types", "/etc/services", "/etc/protocols"}) {
    if (Failure failure = mirror(path)) return failure;
  }
  const std::string& directory = order.directory;
  if (directory.empty() || directory == "/") return {};
  for (const char* covered : {"/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/"}) {
    if ((directory + "/").rfind(covered, 0) == 0) return {};
  }
  if (Failure failure = make_directories(kBase + directory)) return failure;
  if (Failure failure = bind_read_only(directory, kBase + directory)) {
    failure.not_found = errno == ENOENT;
    return failure;
  }
  return {};
}

// The order's directories (the topmost first, one a line) below a bounded upper layer; /dev and /proc are moved into it.
Failure stack_overlay(const wire::Order& order, std::string& root) {
  const std::string upper = kBase + "/.upper";
  root = kBase + "/.merged";
  for (const auto& path : {upper, root}) {
    if (Failure failure = make_directories(path)) return failure;
  }
  struct stat status {};
  std::string lowers;
  int number = 0;
  for (std::size_t begin = 0; begin <= order.directory.size(); ++number) {
    const std::size_t end = std::min(order.directory.find('\n', begin), order.directory.size());
    const std::string directory = order.directory.substr(begin, end - begin);
    begin = end + 1;
    if (::stat(directory.c_str(), &status) != 0) {
      Failure failure = errno_failure("open root directory", directory);
      failure.not_found = errno == ENOENT || errno == ENOTDIR;
      return failure;
    }
    if (!S_ISDIR(status.st_mode)) {
      Failure failure = failure_with(ENOTDIR, "use as root", directory);
      failure.not_found = true;
      return failure;
    }
    // Bound to a short fixed name first: overlay's options know no way to write every path.
    const std::string lower = kBase + "/.lower" + std::to_string(number);
    if (Failure failure = make_directories(lower)) return failure;
    if (Failure failure = bind_read_only(directory, lower)) return failure;
    lowers += (lowers.empty() ? "" : ":") + lower;
  }
  if (Failure failure =
          do_mount("upper", upper, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=" + std::to_string(order.tmp_bytes)))
    return failure;
  if (Failure failure = make_directories(upper + "/up")) return failure;
  if (Failure failure = make_directories(upper + "/work")) return failure;
  const std::string options = "lowerdir=" + lowers + ",upperdir=" + upper + "/up,workdir=" + upper + "/work";
  if (do_mount("overlay", root, "overlay", MS_NOSUID | MS_NODEV, options + ",userxattr")) {
    if (Failure failure = do_mount("overlay", root, "overlay", MS_NOSUID | MS_NODEV, options)) return failure;
  }
  for (const char* name : {"/dev", "/proc"}) {
    // The image may hold a link there, which a mount would follow out of the new root: replace it in the upper layer.
    const std::string target = root + name;
    if (::lstat(target.c_str(), &status) == 0 && !S_ISDIR(status.st_mode) && ::unlink(target.c_str()) != 0)
      return errno_failure("replace", target);
    if (Failure failure = make_directories(target)) return failure;
    if (Failure failure = do_mount((kBase + name).c_str(), target, nullptr, MS_MOVE)) return failure;
  }
  const std::string tmp = root + "/tmp";
  if (::lstat(tmp.c_str(), &status) == 0 && !S_ISDIR(status.st_mode) && ::unlink(tmp.c_str()) != 0)
    return errno_failure("replace", tmp);
  return make_tmp(tmp, order);
}

}  // namespace

Failure prepare_root(wire::Isolation isolation) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return errno_failure("make private the mounts of", "/");
  if (isolation == wire::Isolation::full) {
    // Ports below 1024 are ordinary ones in a network namespace of one's own.
    static_cast<void>(write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"));
    static_cast<void>(write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"));
  }
  if (Failure failure = do_mount("root", kBase, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")) return failure;
  for (const char* name : {"/dev", "/proc", "/tmp"}) {
    if (Failure failure = make_directories(kBase + name)) return failure;
  }
  if (Failure failure = make_devices(isolation)) return failure;
  const std::string proc = kBase + "/proc";
  if (do_mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")) {
    if (Failure failure = do_mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)) return failure;
  }
  return mask_proc();
}

Failure enter_root(const wire::Order& order) {
  std::string root = kBase;
  Failure failure;
  if (order.root == wire::RootKind::overlay) {
    failure = stack_overlay(order, root);
  } else {
    failure = make_tmp(kBase + "/tmp", order);
    if (!failure && order.root == wire::RootKind::host) failure = fill_from_host(order);
  }
  if (failure) return failure;
  if (::chdir(root.c_str()) != 0) return errno_failure("enter", root);
  // Both arguments the same: the old root is stacked below the new one and can be detached without a place to put it.
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return errno_failure("pivot_root to", root);
  if (::umount2(".", MNT_DETACH) != 0) return errno_failure("detach", "the old root");
  if (::chdir("/") != 0) return errno_failure("enter", "/");
  if (order.root != wire::RootKind::overlay) {
    return do_mount("none", "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV);
  }
  return {};
}

}  // namespace dirigent::sandbox::cell
