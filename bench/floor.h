// SPDX-License-Identifier: MIT
//
// The floor of cold starts: what a single-minded program does to run one function in full isolation (five namespaces
// and an own network, overlay, pivot_root, three cgroups, a system call filter) and nothing else: no other process is
// asked, nothing is looked up, the function is the least server there can be. With a pool of network namespaces, or
// with nothing prepared. One thread; needs root.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "sandbox/process/cgroups.h"
#include "sandbox/network/network.h"

namespace dirigent::bench {

// A directory with the benchmarks' function in it, to be used as a root; removed with the object.
class HelloRoot {
 public:
  HelloRoot();
  HelloRoot(const HelloRoot&) = delete;
  HelloRoot& operator=(const HelloRoot&) = delete;
  ~HelloRoot();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A connect with 3 ms of patience and a new socket each time (a fresh link drops the first SYN), then one GET; true when
// it is answered with 200. `address` is in network order.
bool get_hello(std::uint32_t address);

class Floor {
 public:
  // `pool`: network namespaces made ahead and used in turn; 0 = each sandbox gets a new one.
  static Result<std::unique_ptr<Floor>> open(const std::string& name, const std::string& root, std::uint32_t pool);
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor();

  // One sandbox from nothing to its first answer; the time it took.
  Result<Duration> start();
  // Ends it and removes what is left of it.
  void stop();

 private:
  struct Place {
    int netns = -1;
    std::uint32_t address = 0;
  };
  Floor() = default;
  Result<Place> make_place();

  std::string root_;
  sandbox::Cgroups cgroups_;
  std::unique_ptr<sandbox::Network> network_;
  std::vector<Place> pool_;
  std::uint32_t count_ = 0;
  std::string cgroup_;
  std::vector<int> cgroup_fds_;
  int pid_ = -1;
};

}  // namespace dirigent::bench
