// SPDX-License-Identifier: MIT
//
// A containerd of the tests' own: in a network namespace and directories of its own, ended with the test program. Only
// one test program at a time may have it.
#pragma once

#include <sys/types.h>

#include <string>

#include "harness.h"

namespace dirigent::sandbox::test {

class ContainerdDaemon {
 public:
  // The one of this program, running. Made when first asked for.
  static ContainerdDaemon& get();

  void start();
  // Ends it at once and waits until it is gone; its containers go on.
  void kill();
  [[nodiscard]] std::string address() const { return directory_.path + "/containerd.sock"; }
  // Makes crun usable where a version 2 hierarchy has controllers: mounts hugetlb as version 1 until the end.
  bool allow_crun();

  ~ContainerdDaemon();

 private:
  ContainerdDaemon();
  TemporaryDirectory directory_;
  pid_t pid_ = -1;
  bool had_shim_directory_ = false;
  bool has_mounted_ = false;
};

}  // namespace dirigent::sandbox::test
