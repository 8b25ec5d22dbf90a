// SPDX-License-Identifier: MIT
#include "containerd_daemon.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "sandbox/oci/launcher.h"
#include "sandbox/oci/oci_engine.h"

namespace dirigent::sandbox::test {

namespace {

constexpr const char* kShims = "/run/containerd";
constexpr const char* kHugetlb = "/sys/fs/cgroup/hugetlb";

bool can_connect(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  const bool worked = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return worked;
}

}  // namespace

ContainerdDaemon& ContainerdDaemon::get() {
  static ContainerdDaemon daemon;
  return daemon;
}

ContainerdDaemon::ContainerdDaemon() {
  had_shim_directory_ = std::filesystem::exists(kShims);
  std::ofstream config(directory_.path + "/config.toml");
  config << "version = 2\noom_score = 0\n"
         << "root = \"" << directory_.path << "/root\"\nstate = \"" << directory_.path << "/state\"\n"
         << "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
         << "[grpc]\n  address = \"" << address() << "\"\n"
         << "[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"" << directory_.path << "/opt\"\n";
  config.close();
  start();
}

void ContainerdDaemon::start() {
  if (pid_ > 0) return;
  Command command;
  // It ends with this program, however that ends.
  command.arguments = {find_in_path("setpriv"), "--pdeathsig", "KILL", find_in_path("unshare"), "--net",
                       find_in_path("containerd"), "--config", directory_.path + "/config.toml", "--log-level", "error"};
  command.environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  auto pid = launch_program(command);
  if (!pid) throw std::runtime_error(pid.error().message);
  pid_ = *pid;
  const Instant end = io::Loop::now() + 20s;
  while (!can_connect(address())) {
    if (io::Loop::now() > end || ::waitpid(pid_, nullptr, WNOHANG) == pid_)
      throw std::runtime_error("containerd did not come up");
    std::this_thread::sleep_for(2ms);
  }
}

void ContainerdDaemon::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

bool ContainerdDaemon::allow_crun() {
  std::ifstream controllers("/sys/fs/cgroup/unified/cgroup.controllers");
  std::string names;
  std::getline(controllers, names);
  if (names.empty()) return true;
  if (names != "hugetlb") return false;
  const bool made = ::mkdir(kHugetlb, 0755) == 0 || errno == EEXIST;
  has_mounted_ = made && ::mount("cgroup", kHugetlb, "cgroup", 0, "hugetlb") == 0;
  return has_mounted_;
}

ContainerdDaemon::~ContainerdDaemon() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  if (has_mounted_) {
    ::rmdir((std::string(kHugetlb) + "/dirigent").c_str());
    ::umount2(kHugetlb, 0);
    ::rmdir(kHugetlb);
  }
  std::error_code ignored;
  if (!had_shim_directory_) std::filesystem::remove_all(kShims, ignored);
}

}  // namespace dirigent::sandbox::test
