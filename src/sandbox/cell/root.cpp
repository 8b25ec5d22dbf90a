// SPDX-License-Identifier: MIT
#include "sandbox/cell/root.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

namespace dirigent::sandbox::cell {

namespace {

// Where a root is put together. At full strength below the cell's own /tmp; without root over /sys, which the cell does
// not need and which no image lies under.
struct Workshop {
  std::string dev_and_proc;  // the root in which they are at first
  std::string base;          // of a root that is made for an order
  std::string upper;         // of an overlay
  std::string lower;         // prefix of its directories
  int host = -1;             // the host's tree, if it came with the order: paths are looked up in it
};

Workshop full_workshop() { return {"", "/tmp/root", "/tmp", "/tmp/lower", -1}; }
Workshop user_workshop() { return {"/sys", "/sys", "/sys/.upper", "/sys/.lower", -1}; }
Workshop workshop_of(wire::Isolation isolation) {
  return isolation == wire::Isolation::full ? full_workshop() : user_workshop();
}

Failure do_mount(const char* source, const std::string& target, const char* type, unsigned long flags,
                 const std::string& data = "") {
  if (::mount(source, target.c_str(), type, flags, data.empty() ? nullptr : data.c_str()) == 0) return {};
  return errno_failure(std::string("mount ") + (type != nullptr ? type : source) + " on", target);
}

Failure make_read_only(const std::string& target) {
  mount_attr wanted{};
  wanted.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  if (::syscall(SYS_mount_setattr, AT_FDCWD, target.c_str(), AT_RECURSIVE, &wanted, sizeof wanted) == 0) return {};
  // Before Linux 5.12: the top mount only.
  return do_mount("none", target, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV);
}

// Binds `source` at `target`, read-only and without devices or set-user-id programs, with everything mounted below it.
Failure bind_read_only(const std::string& source, const std::string& target) {
  if (Failure failure = do_mount(source.c_str(), target, nullptr, MS_BIND | MS_REC)) {
    failure.text += " (from " + source + ")";
    return failure;
  }
  return make_read_only(target);
}

// Attaches a detached mount. A copy of a mount that the host shares is shared, too: what is mounted there later must not
// appear here.
Failure attach_read_only(int tree, const std::string& target) {
  if (::syscall(SYS_move_mount, tree, "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return errno_failure("attach the mount of the order at", target);
  if (Failure failure = do_mount("none", target, nullptr, MS_REC | MS_PRIVATE)) return failure;
  return make_read_only(target);
}

// A file of the host to bind from: links are followed within the host's tree, not within this root. "" = not there.
class HostFile {
 public:
  HostFile(const Workshop& shop, const std::string& path, bool follow) {
    if (shop.host < 0) {
      path_ = path;
      found_ = (follow ? ::stat(path.c_str(), &status_) : ::lstat(path.c_str(), &status_)) == 0;
      return;
    }
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC | (follow ? 0u : static_cast<unsigned>(O_NOFOLLOW));
    how.resolve = RESOLVE_IN_ROOT;
    fd_ = static_cast<int>(::syscall(SYS_openat2, shop.host, path.c_str() + 1, &how, sizeof how));
    found_ = fd_ >= 0 && ::fstat(fd_, &status_) == 0;
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  HostFile(const HostFile&) = delete;
  HostFile& operator=(const HostFile&) = delete;
  ~HostFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] bool found() const { return found_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] mode_t mode() const { return status_.st_mode; }
  // The target of a link; -1 and errno.
  ssize_t read_link(char* text, std::size_t size) const {
    return fd_ >= 0 ? ::readlinkat(fd_, "", text, size) : ::readlink(path_.c_str(), text, size);
  }

 private:
  int fd_ = -1;
  bool found_ = false;
  std::string path_;
  struct stat status_ {};
};

// What all cells have alike of /dev; at full strength it is read-only and one for all.
Failure make_devices(wire::Isolation isolation, const std::string& base) {
  const std::string dev = base + "/dev";
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
  return {};
}

Failure make_own_devices(const std::string& dev) {
  if (Failure failure =
          do_mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
    return failure;
  return do_mount("shm", dev + "/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16m,mode=1777");
}

// What containers commonly hide of /proc: secrets of the kernel, and knobs that reach beyond the sandbox.
constexpr const char* kHiddenFiles[] = {"kcore",       "keys", "latency_stats", "timer_list", "timer_stats",
                                        "sched_debug", "kmsg", "kallsyms",      "config.gz"};
constexpr const char* kHiddenDirectories[] = {"acpi", "asound", "scsi"};
constexpr const char* kReadOnly[] = {"bus", "fs", "irq", "sys", "sysrq-trigger"};

// Which of them this kernel has is the same in every /proc: looked up once, before the cells are cloned.
struct ProcNames {
  std::vector<const char*> hidden_files;
  std::vector<const char*> hidden_directories;
  std::vector<const char*> read_only;
};
const ProcNames& proc_names(const std::string& proc) {
  static const ProcNames names = [&proc] {
    ProcNames found;
    const auto pick = [&proc](const auto& candidates, std::vector<const char*>& into) {
      for (const char* name : candidates) {
        if (::access((proc + "/" + name).c_str(), F_OK) == 0) into.push_back(name);
      }
    };
    pick(kHiddenFiles, found.hidden_files);
    pick(kHiddenDirectories, found.hidden_directories);
    pick(kReadOnly, found.read_only);
    return found;
  }();
  return names;
}

// Shows `path` of the host at the same place: links as links, so that a merged /usr looks the same inside.
Failure mirror(const Workshop& shop, const std::string& path) {
  const std::string target = shop.base + path;
  const HostFile itself(shop, path, false);
  if (!itself.found()) return {};
  if (S_ISLNK(itself.mode()) && path.find('/', 1) == std::string::npos) {
    char where[PATH_MAX];
    const ssize_t size = itself.read_link(where, sizeof where - 1);
    if (size < 0) return errno_failure("read link", path);
    where[size] = '\0';
    if (::symlink(where, target.c_str()) != 0) return errno_failure("make link", target);
    return {};
  }
  const HostFile file(shop, path, true);
  if (!file.found()) return {};  // a dangling link: nothing to show
  if (Failure failure = S_ISDIR(file.mode()) ? make_directories(target) : touch(target)) return failure;
  return bind_read_only(file.path(), target);
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

Failure make_tmp(const std::string& path, std::uint64_t bytes) {
  ::mkdir(path.c_str(), 01777);
  return do_mount("tmp", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=" + std::to_string(bytes));
}

Failure fill_from_host(const Workshop& shop, const wire::Order& order) {
  for (const char* path : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}) {
    if (Failure failure = mirror(shop, path)) return failure;
  }
  if (Failure failure = make_identity(shop.base + "/etc", order)) return failure;
  for (const char* path : {"/etc/ssl", "/etc/ca-certificates.conf", "/etc/ld.so.cache", "/etc/ld.so.conf",
                           "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives", "/etc/nsswitch.conf",
                           "/etc/mime.types", "/etc/services", "/etc/protocols"}) {
    if (Failure failure = mirror(shop, path)) return failure;
  }
  const std::string& directory = order.directory;
  if (directory.empty() || directory == "/") return {};
  for (const char* covered : {"/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/"}) {
    if ((directory + "/").rfind(covered, 0) == 0) return {};
  }
  const HostFile program(shop, directory, true);
  if (!program.found()) {
    Failure failure = failure_with(ENOENT, "find the program's directory", directory);
    failure.not_found = true;
    return failure;
  }
  if (Failure failure = make_directories(shop.base + directory)) return failure;
  return bind_read_only(program.path(), shop.base + directory);
}

// Binds one directory of an overlay's lower ones at `target`, from the mount that came with the order or by its path.
Failure fetch_lower(const Workshop& shop, const std::string& directory, int tree, const std::string& target) {
  if (Failure failure = make_directories(target)) return failure;
  if (tree >= 0) return attach_read_only(tree, target);
  const HostFile source(shop, directory, true);
  if (source.found() && S_ISDIR(source.mode())) return bind_read_only(source.path(), target);
  Failure failure = failure_with(source.found() ? ENOTDIR : errno, "use as root", directory);
  failure.not_found = true;
  return failure;
}

// Moves /dev and /proc into another root. The image may hold a link there, which a mount would follow out of the new
// root: it is replaced.
Failure move_dev_and_proc(const Workshop& shop, const std::string& root) {
  if (root == shop.dev_and_proc) return {};
  for (const char* name : {"/dev", "/proc"}) {
    const std::string target = root + name;
    struct stat status {};
    if (::lstat(target.c_str(), &status) == 0 && !S_ISDIR(status.st_mode) && ::unlink(target.c_str()) != 0)
      return errno_failure("replace", target);
    if (Failure failure = make_directories(target)) return failure;
    if (Failure failure = do_mount((shop.dev_and_proc + name).c_str(), target, nullptr, MS_MOVE)) return failure;
  }
  return {};
}

// The order's directories below a bounded upper layer.
Failure stack_overlay(wire::Isolation isolation, const Workshop& shop, const wire::Order& order, const std::vector<int>& trees,
                      std::string& root) {
  root = isolation == wire::Isolation::full ? "/tmp/merged" : "/sys/.merged";
  if (Failure failure = make_directories(root)) return failure;
  std::string lowers;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin <= order.directory.size(); ++number) {
    const std::size_t end = std::min(order.directory.find('\n', begin), order.directory.size());
    const std::string directory = order.directory.substr(begin, end - begin);
    begin = end + 1;
    // At a short fixed name: overlay's options know no way to write every path.
    const std::string lower = shop.lower + std::to_string(number);
    const int tree = order.has_host_tree == 0 && number < trees.size() ? trees[number] : -1;
    if (Failure failure = fetch_lower(shop, directory, tree, lower)) return failure;
    lowers += (lowers.empty() ? "" : ":") + lower;
  }
  if (isolation != wire::Isolation::full) {
    if (Failure failure = make_directories(shop.upper)) return failure;
    if (Failure failure = do_mount("upper", shop.upper, "tmpfs", MS_NOSUID | MS_NODEV,
                                   "mode=755,size=" + std::to_string(order.tmp_bytes)))
      return failure;
  }
  if (Failure failure = make_directories(shop.upper + "/up")) return failure;
  if (Failure failure = make_directories(shop.upper + "/work")) return failure;
  const std::string options = "lowerdir=" + lowers + ",upperdir=" + shop.upper + "/up,workdir=" + shop.upper + "/work";
  if (do_mount("overlay", root, "overlay", MS_NOSUID | MS_NODEV, options + ",userxattr")) {
    if (Failure failure = do_mount("overlay", root, "overlay", MS_NOSUID | MS_NODEV, options)) return failure;
  }
  if (Failure failure = move_dev_and_proc(shop, root)) return failure;
  const std::string tmp = root + "/tmp";
  struct stat status {};
  if (::lstat(tmp.c_str(), &status) == 0 && !S_ISDIR(status.st_mode) && ::unlink(tmp.c_str()) != 0)
    return errno_failure("replace", tmp);
  return make_tmp(tmp, order.tmp_bytes);
}

// The directory `name` in `parent`, never by way of a link: an image may have one there that leads out of its root.
Failure make_own_directory(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0 && !S_ISDIR(status.st_mode) && ::unlink(path.c_str()) != 0)
    return errno_failure("replace", path);
  return make_directories(path);
}

// The order's secrets, on a tmpfs of their own that nobody writes to afterwards.
Failure make_secrets(wire::Isolation isolation, const wire::Order& order, const std::string& root) {
  if (order.secrets.empty()) return {};
  const std::string directory = root + "/run/secrets";
  if (Failure failure = make_own_directory(root + "/run")) return failure;
  if (Failure failure = make_own_directory(directory)) return failure;
  if (Failure failure = do_mount("secrets", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=500,size=1m")) return failure;
  for (std::size_t i = 0; i + 1 < order.secrets.size(); i += 2) {
    const std::string path = directory + "/" + order.secrets[i];
    const std::string& content = order.secrets[i + 1];
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
    if (file < 0) return errno_failure("make", path);
    const bool written = ::write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
                         (isolation != wire::Isolation::full || ::fchown(file, order.uid, order.uid) == 0);
    const Failure failure = written ? Failure{} : errno_failure("write", path);
    ::close(file);
    if (failure) return failure;
  }
  if (isolation == wire::Isolation::full && ::chown(directory.c_str(), order.uid, order.uid) != 0)
    return errno_failure("hand over", directory);
  return do_mount("none", directory, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
}

Failure remount_read_only(const std::string& path) {
  return do_mount("none", path, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV);
}

// Both arguments the same: the old root is stacked below the new one and can be detached without a place to put it.
Failure pivot_to(const std::string& root) {
  if (::chdir(root.c_str()) != 0) return errno_failure("enter", root);
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return errno_failure("pivot_root to", root);
  if (::umount2(".", MNT_DETACH) != 0) return errno_failure("detach", "the old root");
  if (::chdir("/") != 0) return errno_failure("enter", "/");
  return {};
}

Failure enter_user_root(const wire::Order& order) {
  Workshop shop = user_workshop();
  std::string root = shop.base;
  Failure failure;
  if (order.root == wire::RootKind::overlay) {
    failure = stack_overlay(wire::Isolation::user, shop, order, {}, root);
  } else {
    failure = make_tmp(shop.base + "/tmp", order.tmp_bytes);
    if (!failure && order.root == wire::RootKind::host) failure = fill_from_host(shop, order);
  }
  if (!failure && order.root != wire::RootKind::empty) failure = make_secrets(wire::Isolation::user, order, root);
  if (!failure) failure = pivot_to(root);
  if (!failure && order.root != wire::RootKind::overlay) failure = remount_read_only("/");
  return failure;
}

// The host's tree is there only while the root is filled from it.
Failure enter_full_root(const wire::Order& order, const std::vector<int>& trees) {
  if (order.root == wire::RootKind::empty) return {};
  Workshop shop = full_workshop();
  const std::string host = "/tmp/host";
  if (order.has_host_tree != 0) {
    if (trees.empty()) return failure_with(EBADMSG, "find in the order", "the host's tree");
    if (Failure failure = make_directories(host)) return failure;
    if (Failure failure = attach_read_only(trees[0], host)) return failure;
    shop.host = trees[0];
  }
  std::string root = shop.base;
  Failure failure;
  if (order.root == wire::RootKind::overlay) {
    failure = stack_overlay(wire::Isolation::full, shop, order, trees, root);
  } else {
    failure = make_directories(root);
    if (!failure) failure = do_mount("root", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755");
    // Before the rest: the program may lie below it.
    if (!failure) failure = make_tmp(root + "/tmp", order.tmp_bytes);
    if (!failure) failure = fill_from_host(shop, order);
    if (!failure) failure = move_dev_and_proc(shop, root);
    if (!failure) failure = make_secrets(wire::Isolation::full, order, root);
    if (!failure) failure = remount_read_only(root);
  }
  if (!failure && order.root == wire::RootKind::overlay) failure = make_secrets(wire::Isolation::full, order, root);
  if (failure) return failure;
  if (order.has_host_tree != 0 && ::umount2(host.c_str(), MNT_DETACH) != 0) return errno_failure("detach", host);
  // Not pivot_root, which looks at every process of the machine. What is left outside is the template, empty and
  // read-only, and the function has not the capability to leave its root.
  if (::chroot(root.c_str()) != 0) return errno_failure("change the root to", root);
  if (::chdir("/") != 0) return errno_failure("enter", "/");
  return {};
}

}  // namespace

Failure enter_template() {
  proc_names("/proc");
  if (::unshare(CLONE_NEWNS) != 0) return errno_failure("make", "a mount namespace");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return errno_failure("make private the mounts of", "/");
  const std::string base = "/sys";
  if (Failure failure = do_mount("root", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")) return failure;
  for (const char* name : {"/dev", "/proc", "/tmp"}) {
    if (Failure failure = make_directories(base + name)) return failure;
  }
  if (Failure failure = make_devices(wire::Isolation::full, base)) return failure;
  if (Failure failure = do_mount("none", base + "/dev", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC))
    return failure;
  if (Failure failure = pivot_to(base)) return failure;
  return remount_read_only("/");
}

Failure prepare_root(wire::Isolation isolation, std::uint64_t tmp_bytes) {
  const std::string base = workshop_of(isolation).dev_and_proc;
  if (isolation != wire::Isolation::full) {
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return errno_failure("make private the mounts of", "/");
    if (Failure failure = do_mount("root", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")) return failure;
    for (const char* name : {"/dev", "/proc", "/tmp"}) {
      if (Failure failure = make_directories(base + name)) return failure;
    }
    if (Failure failure = make_devices(isolation, base)) return failure;
  }
  if (Failure failure = make_own_devices(base + "/dev")) return failure;
  const std::string proc = base + "/proc";
  if (do_mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")) {
    if (Failure failure = do_mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)) return failure;
  }
  return isolation == wire::Isolation::full ? make_tmp("/tmp", tmp_bytes) : Failure{};
}

Failure mask_proc(wire::Isolation isolation) {
  const std::string base = workshop_of(isolation).dev_and_proc;
  const std::string proc = base + "/proc/";
  const std::string null = base + "/dev/null";
  const ProcNames& names = proc_names(base + "/proc");
  for (const char* name : names.hidden_files) {
    if (Failure failure = do_mount(null.c_str(), proc + name, nullptr, MS_BIND)) return failure;
  }
  for (const char* name : names.hidden_directories) {
    if (Failure failure =
            do_mount("masked", proc + name, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,mode=000"))
      return failure;
  }
  for (const char* name : names.read_only) {
    if (Failure failure = bind_read_only(proc + name, proc + name)) return failure;
  }
  return {};
}

Failure enter_root(wire::Isolation isolation, const wire::Order& order, const std::vector<int>& trees) {
  return isolation == wire::Isolation::full ? enter_full_root(order, trees) : enter_user_root(order);
}

}  // namespace dirigent::sandbox::cell
