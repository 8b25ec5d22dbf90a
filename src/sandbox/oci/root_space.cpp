// SPDX-License-Identifier: MIT
#include "sandbox/oci/root_space.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "dirigent/base/log.h"

// The cell program, from process/embedded_cell.S.
extern "C" const char dirigent_cell_begin[];
extern "C" const char dirigent_cell_end[];

namespace dirigent::sandbox {

namespace {

namespace fs = std::filesystem;

Status make_directory(const std::string& path, mode_t mode = 0755) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  return errno_failure(errno, fmt::format("cannot make {}", path));
}

}  // namespace

Status make_skeleton(const std::string& directory) {
  for (const char* name : {"", "/proc", "/dev", "/etc", "/run", "/run/secrets"}) {
    if (Status made = make_directory(directory + name); !made) return made;
  }
  if (Status made = make_directory(directory + "/tmp"); !made) return made;
  // runc gives the tmpfs on it these permissions, whatever its options say.
  if (::chmod((directory + "/tmp").c_str(), 01777) != 0) return errno_failure(errno, "cannot open up /tmp");
  std::ofstream(directory + "/etc/hosts") << "127.0.0.1 localhost\n::1 localhost\n" << std::flush;
  return {};
}

Status write_secrets(const std::string& directory, const ContainerSpec& spec) {
  if (Status made = make_directory(directory, 0500); !made) return made;
  const uid_t uid = host_uid(spec);
  const gid_t gid = host_gid(spec);
  for (const auto& [name, content] : spec.secrets) {
    const std::string path = directory + "/" + name;
    const io::FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400));
    if (!file.is_open()) return errno_failure(errno, fmt::format("cannot make the secret {}", path));
    const ssize_t size = ::write(file.get(), content.data(), content.size());
    if (size != static_cast<ssize_t>(content.size()) || ::fchown(file.get(), uid, gid) != 0)
      return errno_failure(errno, fmt::format("cannot write the secret {}", path));
  }
  if (::chown(directory.c_str(), uid, gid) != 0) return errno_failure(errno, fmt::format("cannot hand over {}", directory));
  return {};
}

Status make_builtin_root(const std::string& directory) {
  if (Status made = make_skeleton(directory); !made) return made;
  const std::string path = directory + "/cell";
  {
    std::ofstream file(path, std::ios::binary);
    file.write(dirigent_cell_begin, dirigent_cell_end - dirigent_cell_begin);
    file.flush();
    if (!file) return failure(ErrorCode::unavailable, "cannot write {}", path);
  }
  if (::chmod(path.c_str(), 0755) != 0) return errno_failure(errno, fmt::format("cannot make {} executable", path));
  return {};
}

Result<std::unique_ptr<RootSpace>> RootSpace::make(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    return failure(ErrorCode::unavailable, "cannot make {}: {} (set run_directory)", directory, error.message());
  auto space = std::unique_ptr<RootSpace>(new RootSpace(directory));
  if (::unshare(CLONE_FS | CLONE_NEWNS) != 0) return errno_failure(errno, "cannot make a mount namespace");
  // What the host mounts and unmounts is followed; nothing of ours goes the other way.
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return errno_failure(errno, "cannot separate the mount namespace");
  if (::mount("dirigent", directory.c_str(), "tmpfs", MS_NODEV | MS_NOSUID, "mode=711") != 0)
    return errno_failure(errno, fmt::format("cannot mount a tmpfs on {}", directory));
  space->namespace_ = io::FileDescriptor(::open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC));
  if (!space->namespace_.is_open()) return errno_failure(errno, "cannot open the mount namespace");
  if (Status filled = space->fill(); !filled) return failure(filled.error());
  return space;
}

Status RootSpace::fill() {
  for (const char* name : {"/layers", "/state"}) {
    if (Status made = make_directory(directory_ + name, 0711); !made) return made;
  }
  if (Status made = make_skeleton(directory_ + "/layers/skeleton"); !made) return made;
  return make_builtin_root(directory_ + "/builtin");
}

Status RootSpace::enter() const {
  thread_local const RootSpace* entered = nullptr;
  if (entered == this) return {};
  // The thread's own root and working directory: a mount namespace cannot be entered while they are shared.
  if (::unshare(CLONE_FS) != 0 || ::setns(namespace_.get(), CLONE_NEWNS) != 0)
    return errno_failure(errno, "cannot enter the mount namespace of the containers");
  entered = this;
  return {};
}

Result<std::string> RootSpace::short_name(const std::string& layer) {
  const std::lock_guard lock(mutex_);
  const auto found = short_names_.find(layer);
  if (found != short_names_.end()) return found->second;
  const std::string name = std::to_string(short_names_.size());
  if (::symlink(layer.c_str(), (directory_ + "/layers/" + name).c_str()) != 0)
    return errno_failure(errno, fmt::format("cannot name the layer {}", layer));
  short_names_[layer] = name;
  return name;
}

Result<std::string> RootSpace::mount_root(const std::string& name, const StoredImage* image, std::uint64_t writable_bytes) {
  const std::string directory = directory_ + "/" + name;
  if (Status made = make_directory(directory, 0711); !made) return failure(made.error());
  if (image == nullptr && writable_bytes == 0) return directory_ + "/builtin";
  std::string lowers;
  if (image == nullptr) lowers = directory_ + "/builtin:";
  else {
    for (const auto& layer : image->layers) {
      auto short_of = short_name(layer);
      if (!short_of) return short_of;
      lowers += *short_of + ":";
    }
  }
  std::string options = "lowerdir=" + lowers + "skeleton";
  if (writable_bytes > 0) {
    const std::string changes = directory + "/changes";
    if (Status made = make_directory(changes, 0711); !made) return failure(made.error());
    const std::string size = fmt::format("mode=755,size={}", writable_bytes);
    if (::mount("changes", changes.c_str(), "tmpfs", MS_NODEV | MS_NOSUID, size.c_str()) != 0)
      return errno_failure(errno, fmt::format("cannot mount a tmpfs on {}", changes));
    for (const char* part : {"/upper", "/work"}) {
      if (Status made = make_directory(changes + part); !made) return failure(made.error());
    }
    options += ",upperdir=" + changes + "/upper,workdir=" + changes + "/work";
  }
  const std::string root = directory + "/root";
  if (Status made = make_directory(root); !made) return failure(made.error());
  // Relative names, for the same page of options; the working directory is this thread's own.
  const std::string layers = directory_ + "/layers";
  if (::chdir(layers.c_str()) != 0) return errno_failure(errno, fmt::format("cannot enter {}", layers));
  if (::mount("overlay", root.c_str(), "overlay", MS_NODEV | MS_NOSUID, options.c_str()) != 0)
    return errno_failure(errno, fmt::format("cannot stack the layers of {} ({} of them)", name,
                                            image != nullptr ? image->layers.size() : 0));
  return root;
}

void RootSpace::remove(const std::string& name) const {
  const std::string directory = directory_ + "/" + name;
  for (const char* mounted : {"/root", "/changes"}) {
    if (::umount2((directory + mounted).c_str(), MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
      log_warn("sandbox", "cannot unmount {}{}: {}", directory, mounted, std::generic_category().message(errno));
  }
  std::error_code error;
  fs::remove_all(directory, error);
  if (error) log_warn("sandbox", "cannot remove {}: {}", directory, error.message());
}

}  // namespace dirigent::sandbox
