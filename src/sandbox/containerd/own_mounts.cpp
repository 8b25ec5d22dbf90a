// SPDX-License-Identifier: MIT
#include "sandbox/containerd/own_mounts.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

namespace dirigent::sandbox {

namespace {

constexpr std::uint64_t kSecretsBytes = 1 << 20;

Status make_directory(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  return errno_failure(errno, fmt::format("cannot make {}", path));
}

}  // namespace

Status OwnMounts::make(const std::string& name, std::uint64_t bytes) const {
  const std::string path = directory_ + "/" + name;
  if (Status made = make_directory(directory_, 0711); !made) return made;
  if (Status made = make_directory(path, 0711); !made) return made;
  const std::string options = fmt::format("mode=711,size={}", bytes + kSecretsBytes);
  if (::mount("dirigent", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options.c_str()) != 0)
    return errno_failure(errno, fmt::format("cannot mount a tmpfs on {}", path));
  for (const char* part : {"/up", "/work"}) {
    if (Status made = bytes > 0 ? make_directory(path + part, 0755) : Status{}; !made) return made;
  }
  return {};
}

void OwnMounts::remove(const std::string& name) const {
  const std::string path = directory_ + "/" + name;
  // Most sandboxes have none.
  if (::umount2(path.c_str(), MNT_DETACH) == 0 || errno != ENOENT) ::rmdir(path.c_str());
}

void OwnMounts::remove_all(const std::vector<std::string>& kept) const {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) names.push_back(entry.path().filename().string());
  for (const auto& name : names) {
    if (std::find(kept.begin(), kept.end(), name) == kept.end()) remove(name);
  }
}

std::vector<std::string> OwnMounts::overlay_options(const std::string& name) const {
  const std::string path = directory_ + "/" + name;
  return {"upperdir=" + path + "/up", "workdir=" + path + "/work"};
}

}  // namespace dirigent::sandbox
