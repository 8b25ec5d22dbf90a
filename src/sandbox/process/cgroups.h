// SPDX-License-Identifier: MIT
//
// The cgroups of a worker: one tree of directories per controller (version 1) or one for all (version 2), below
// .../dirigent/<node>/<cell>. Limits are plain files; an absent controller is a weakness, not an error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/model/function.h"

namespace dirigent::sandbox {

struct CgroupLimits {
  Bytes memory;
  Millicpu cpu;
  Millicpu cpu_limit;  // 0 = shares only
  std::uint32_t pids = 0;

  friend bool operator==(const CgroupLimits&, const CgroupLimits&) = default;
};

class Cgroups {
 public:
  // Finds the hierarchies and makes the node's directories; first removes what an earlier life left there but `kept`,
  // ending its processes. Blocks. Never fails: what cannot be had is in weaknesses().
  static Cgroups open(const std::string& node, const std::vector<std::string>& kept = {});

  // Makes the directories of one cell and opens in each the file by which a single-threaded process joins by writing 0
  // (the descriptors are the caller's).
  Result<std::vector<int>> make(const std::string& cell) const;
  // Replaces what was set before; what is known to be the same already (`before`, as last set) is left alone.
  Status set_limits(const std::string& cell, const CgroupLimits& limits, const std::optional<CgroupLimits>& before) const;
  // How many processes of the cell the kernel has ended for want of memory.
  [[nodiscard]] std::uint64_t memory_kills(const std::string& cell) const;
  // Whether nothing of a cell that has ended is left in its cgroups that the next one would feel: no process, no more
  // than `memory_max` bytes charged, and none was ended for want of memory.
  [[nodiscard]] bool is_like_new(const std::string& cell, std::uint64_t memory_max) const;
  // Retries while the kernel still counts an ended process. Blocks for at most two seconds.
  void remove(const std::string& cell) const;

  // The node's directories, for the spawner's last clean-up.
  [[nodiscard]] std::vector<std::string> node_directories() const;
  [[nodiscard]] const std::vector<std::string>& weaknesses() const { return weaknesses_; }

 private:
  struct Tree {
    std::string directory;  // of the node
    bool has_memory = false;
    bool has_cpu = false;
    bool has_pids = false;
    bool is_v2 = false;
  };
  void add_tree(Tree tree, const std::vector<std::string>& kept);

  std::vector<Tree> trees_;
  std::vector<std::string> weaknesses_;
};

// Ends every process below a node's cgroup directory and removes it; with `kept`, only the directories in it of other
// names. Blocks for at most two seconds.
void clear_cgroups(const std::string& directory, const std::vector<std::string>& kept);

}  // namespace dirigent::sandbox
