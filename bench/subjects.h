// SPDX-License-Identifier: MIT
//
// What bench/runtimes measures: the runtimes themselves, and the floors they are compared with.
#pragma once

#include <memory>
#include <string>

#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/model/messages.h"

namespace dirigent::bench {

// One start to the first answer, and one removal, of whatever is measured. Errors end the variant.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual io::Task<void> open() = 0;
  virtual io::Task<void> close() = 0;
  virtual io::Task<void> start(std::uint64_t number, StartPhases& phases) = 0;
  virtual io::Task<bool> answers(std::uint64_t number) = 0;
  virtual io::Task<void> remove(std::uint64_t number) = 0;
};

// process, oci_PROGRAM, containerd_PROGRAM, containerd_shared_PROGRAM, bare_PROGRAM, bare_containerd_PROGRAM, or the
// latter with containerd's snapshots, bare_containerd_overlayfs_PROGRAM or bare_containerd_native_PROGRAM; `at_once` is
// how many starts there are at a time. The loop must outlive the subject, which is opened and closed before it goes.
std::unique_ptr<Subject> make_subject(io::Loop& loop, const std::string& variant, const std::string& containerd,
                                      std::size_t at_once);

// The directory that all of them use for what they keep while they run.
inline constexpr const char* kRunDirectory = "/run/dirigent-bench";

}  // namespace dirigent::bench
