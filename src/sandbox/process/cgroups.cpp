// SPDX-License-Identifier: MIT
#include "sandbox/process/cgroups.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

Status write_value(const std::string& path, const std::string& value) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot open {}", path));
  const ssize_t written = ::write(fd, value.data(), value.size());
  const int error = errno;
  ::close(fd);
  if (written < 0) return errno_failure(error, fmt::format("cannot write {} to {}", value, path));
  return {};
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `key` in a file of "key number" lines.
std::uint64_t read_counter(const std::string& path, std::string_view key) {
  const std::string text = read_text(path);
  for (const auto line : split(text, '\n')) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ' ') continue;
    return static_cast<std::uint64_t>(parse_integer(line.substr(key.size() + 1)).value_or(0));
  }
  return 0;
}

// Ends every process in the tree and removes its directories, the deepest first.
void clear(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) return;
  for (int attempt = 0; attempt < 200; ++attempt) {
    std::vector<std::string> found{directory};
    for (auto entry = std::filesystem::recursive_directory_iterator(directory, error);
         !error && entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
      if (entry->is_directory(error)) found.push_back(entry->path().string());
    }
    std::reverse(found.begin(), found.end());
    bool all_gone = true;
    for (const auto& path : found) {
      const std::string processes = read_text(path + "/cgroup.procs");  // split() only points into it
      for (const auto pid : split(processes, '\n')) {
        if (const auto number = parse_integer(pid); number && *number > 1) ::kill(static_cast<pid_t>(*number), SIGKILL);
      }
      if (::rmdir(path.c_str()) != 0 && errno != ENOENT) all_gone = false;
    }
    if (all_gone) return;
    std::this_thread::sleep_for(10ms);
  }
  log_warn("sandbox", "cannot remove the old cgroups below {}: processes in them do not end", directory);
}

bool make_directory(const std::string& path) { return ::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST; }

}  // namespace

void clear_cgroups(const std::string& directory, const std::vector<std::string>& kept) {
  if (kept.empty()) return clear(directory);
  std::error_code error;
  std::vector<std::string> others;
  for (auto entry = std::filesystem::directory_iterator(directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const bool is_kept = std::find(kept.begin(), kept.end(), entry->path().filename().string()) != kept.end();
    if (entry->is_directory(error) && !is_kept) others.push_back(entry->path().string());
  }
  for (const auto& other : others) clear(other);
}

void Cgroups::add_tree(Tree tree, const std::vector<std::string>& kept) {
  const std::string parent = tree.directory.substr(0, tree.directory.rfind('/'));
  clear_cgroups(tree.directory, kept);
  if (!make_directory(parent)) return;
  if (tree.is_v2) {
    // Controllers have to be handed down level by level; where the top has processes of its own the kernel refuses.
    const std::string top = parent.substr(0, parent.rfind('/'));
    for (const auto& level : {top, parent}) {
      for (const char* controller : {"+memory", "+cpu", "+pids"})
        static_cast<void>(write_value(level + "/cgroup.subtree_control", controller));
    }
  }
  if (!make_directory(tree.directory)) return;
  if (tree.is_v2) {
    for (const char* controller : {"+memory", "+cpu", "+pids"})
      static_cast<void>(write_value(tree.directory + "/cgroup.subtree_control", controller));
    const std::string handed_down = read_text(tree.directory + "/cgroup.subtree_control");
    const auto names = split(trim(handed_down), ' ');
    // In the hybrid layout a controller is on one side only.
    const auto has = [&](std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
    tree.has_memory = has("memory");
    tree.has_cpu = has("cpu");
    tree.has_pids = has("pids");
  }
  if (!tree.has_memory && !tree.has_cpu && !tree.has_pids) {
    ::rmdir(tree.directory.c_str());
    ::rmdir(parent.c_str());
    return;
  }
  if (tree.has_cpu) {
    // Against the host's other processes all sandboxes together count as much as the machine has CPUs; by default they
    // would count as one process, however many they are.
    const auto cpus = std::max(1u, std::thread::hardware_concurrency());
    for (const auto& level : {parent, tree.directory}) {
      static_cast<void>(tree.is_v2 ? write_value(level + "/cpu.weight", std::to_string(std::min(10'000u, 100 * cpus)))
                                   : write_value(level + "/cpu.shares", std::to_string(1024 * cpus)));
    }
  }
  trees_.push_back(std::move(tree));
}

Cgroups Cgroups::open(const std::string& node, const std::vector<std::string>& kept) {
  Cgroups cgroups;
  std::ifstream mounts("/proc/self/mountinfo");
  std::vector<Tree> found;
  for (std::string line; std::getline(mounts, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const auto before = split(std::string_view(line).substr(0, dash), ' ');
    const auto after = split(std::string_view(line).substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    Tree tree;
    tree.directory = std::string(before[4]) + "/dirigent/" + node;
    if (after[0] == "cgroup2") {
      tree.is_v2 = true;
      found.push_back(tree);
    } else if (after[0] == "cgroup") {
      const auto options = split(after[2], ',');
      const auto has = [&](std::string_view name) {
        return std::find(options.begin(), options.end(), name) != options.end();
      };
      tree.has_memory = has("memory");
      tree.has_cpu = has("cpu");
      tree.has_pids = has("pids");
      if (tree.has_memory || tree.has_cpu || tree.has_pids) found.push_back(tree);
    }
  }
  for (auto& tree : found) cgroups.add_tree(std::move(tree), kept);
  const auto any = [&](bool Tree::* has) {
    return std::any_of(cgroups.trees_.begin(), cgroups.trees_.end(), [has](const Tree& t) { return t.*has; });
  };
  if (!any(&Tree::has_memory))
    cgroups.weaknesses_.emplace_back("memory limits are not enforced: no memory cgroup controller can be used here");
  if (!any(&Tree::has_cpu))
    cgroups.weaknesses_.emplace_back(
        "cpu shares and limits are not enforced: no cpu cgroup controller can be used here");
  if (!any(&Tree::has_pids))
    cgroups.weaknesses_.emplace_back(
        "the number of processes is not limited: no pids cgroup controller can be used here");
  return cgroups;
}

Result<std::vector<int>> Cgroups::make(const std::string& cell) const {
  std::vector<int> fds;
  for (const auto& tree : trees_) {
    const std::string directory = tree.directory + "/" + cell;
    int fd = -1;
    // A process that moves a whole process waits for the kernel's grace periods (7 to 11 ms); a thread that moves
    // itself does not, and a cell has one thread. Version 2 knows no such file outside of threaded groups.
    const char* file = tree.is_v2 ? "/cgroup.procs" : "/tasks";
    if (::mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST)
      fd = ::open((directory + file).c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
      const int error = errno;
      for (const int opened : fds) ::close(opened);
      remove(cell);
      return errno_failure(error, fmt::format("cannot make the cgroup {}", directory));
    }
    fds.push_back(fd);
  }
  return fds;
}

Status Cgroups::set_limits(const std::string& cell, const CgroupLimits& limits, const std::optional<CgroupLimits>& before) const {
  // The kernel counts a CPU as 1024 shares; 2 is its least.
  const std::int64_t shares = std::max<std::int64_t>(2, limits.cpu.value * 1024 / 1000);
  constexpr std::int64_t kPeriodUs = 100'000;
  const std::int64_t quota_us = std::max<std::int64_t>(1000, limits.cpu_limit.value * kPeriodUs / 1000);
  const bool has_quota = limits.cpu_limit.value > 0;
  const bool new_memory = !before || before->memory != limits.memory;
  const bool new_shares = !before || before->cpu != limits.cpu;
  const bool new_quota = !before || before->cpu_limit != limits.cpu_limit;
  for (const auto& tree : trees_) {
    const std::string base = tree.directory + "/" + cell + "/";
    Status status;
    const auto set = [&](const char* file, const std::string& value) {
      if (status) status = write_value(base + file, value);
    };
    if (tree.has_memory && new_memory) {
      const std::string most = std::to_string(limits.memory.value);
      if (tree.is_v2) {
        set("memory.max", most);
        if (!before) {
          static_cast<void>(write_value(base + "memory.swap.max", "0"));  // absent without swap accounting
          static_cast<void>(write_value(base + "memory.oom.group", "1"));
        }
      } else {
        // Memory with swap may never be limited below memory alone: the one to be raised goes first. Absent without swap
        // accounting.
        const auto set_with_swap = [&] { static_cast<void>(write_value(base + "memory.memsw.limit_in_bytes", most)); };
        if (!before || before->memory < limits.memory) set_with_swap();
        set("memory.limit_in_bytes", most);
        if (!before || before->memory > limits.memory) set_with_swap();
      }
    }
    if (tree.has_cpu && new_shares) {
      // In version 2 the kernel's own mapping of shares 2..262144 to weights 1..10000.
      if (tree.is_v2) set("cpu.weight", std::to_string(1 + ((shares - 2) * 9999) / 262'142));
      else set("cpu.shares", std::to_string(shares));
    }
    if (tree.has_cpu && new_quota) {
      if (tree.is_v2) set("cpu.max", has_quota ? fmt::format("{} {}", quota_us, kPeriodUs) : fmt::format("max {}", kPeriodUs));
      else set("cpu.cfs_quota_us", has_quota ? std::to_string(quota_us) : "-1");
    }
    // The cell's own init is one of them.
    if (tree.has_pids && (!before || before->pids != limits.pids)) set("pids.max", std::to_string(limits.pids + 1));
    if (!status) return status;
  }
  return {};
}

std::uint64_t Cgroups::memory_kills(const std::string& cell) const {
  for (const auto& tree : trees_) {
    if (!tree.has_memory) continue;
    return read_counter(tree.directory + "/" + cell + (tree.is_v2 ? "/memory.events" : "/memory.oom_control"),
                        "oom_kill");
  }
  return 0;
}

bool Cgroups::is_like_new(const std::string& cell, std::uint64_t memory_max) const {
  bool is_first = true;
  for (const auto& tree : trees_) {
    const std::string base = tree.directory + "/" + cell + "/";
    // Cells are in every tree or in none.
    if (std::exchange(is_first, false) && !read_text(base + "cgroup.procs").empty()) return false;
    if (!tree.has_memory) continue;
    const auto usage = parse_integer(trim(read_text(base + (tree.is_v2 ? "memory.current" : "memory.usage_in_bytes"))));
    if (!usage || static_cast<std::uint64_t>(*usage) > memory_max) return false;
  }
  return memory_kills(cell) == 0;
}

void Cgroups::remove(const std::string& cell) const {
  for (const auto& tree : trees_) {
    const std::string directory = tree.directory + "/" + cell;
    for (int attempt = 0; attempt < 400; ++attempt) {
      if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) break;
      if (attempt == 399) log_warn("sandbox", "cannot remove the cgroup {}", directory);
      std::this_thread::sleep_for(5ms);
    }
  }
}

std::vector<std::string> Cgroups::node_directories() const {
  std::vector<std::string> directories;
  for (const auto& tree : trees_) directories.push_back(tree.directory);
  return directories;
}

}  // namespace dirigent::sandbox
