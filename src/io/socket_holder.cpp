// SPDX-License-Identifier: MIT
#include "socket_holder.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include "dirigent/base/text.h"

namespace dirigent::io {

namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

// The inodes of the sockets that listen on `port`, from the kernel's table: "sl local remote st ... inode",
// hexadecimal.
void collect_listeners(const char* table, std::uint16_t port, std::set<std::string>& inodes) {
  constexpr std::string_view kListening = "0A";
  std::ifstream file(table);
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string slot, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
    words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >> inode;
    const std::size_t colon = local.rfind(':');
    if (state != kListening || colon == std::string::npos) continue;
    if (std::strtoul(local.c_str() + colon + 1, nullptr, 16) == port) inodes.insert(inode);
  }
}

bool holds_one_of(const std::string& pid, const std::set<std::string>& inodes) {
  const std::string folder = "/proc/" + pid + "/fd";
  const Directory directory(::opendir(folder.c_str()));
  if (!directory) return false;
  while (const dirent* entry = ::readdir(directory.get())) {
    char target[64];
    const ssize_t size = ::readlink((folder + "/" + entry->d_name).c_str(), target, sizeof target);
    if (size <= 0) continue;
    std::string_view link(target, static_cast<std::size_t>(size));
    constexpr std::string_view kPrefix = "socket:[";
    if (!link.starts_with(kPrefix) || !link.ends_with(']')) continue;
    link.remove_prefix(kPrefix.size());
    link.remove_suffix(1);
    if (inodes.count(std::string(link)) > 0) return true;
  }
  return false;
}

}  // namespace

std::string describe_process(int pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  if (!std::getline(file, name)) return fmt::format("process {}", pid);
  return fmt::format("{} {} ({})", pid == ::getpid() ? "this process," : "process", pid, name);
}

std::string describe_port_holder(std::uint16_t port) {
  std::set<std::string> inodes;
  collect_listeners("/proc/net/tcp", port, inodes);
  collect_listeners("/proc/net/tcp6", port, inodes);
  const Directory processes(inodes.empty() ? nullptr : ::opendir("/proc"));
  if (processes) {
    while (const dirent* entry = ::readdir(processes.get())) {
      const auto pid = parse_integer(entry->d_name);
      if (pid && holds_one_of(entry->d_name, inodes)) return describe_process(static_cast<int>(*pid));
    }
  }
  return "another process";
}

}  // namespace dirigent::io
