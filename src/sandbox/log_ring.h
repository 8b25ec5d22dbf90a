// SPDX-License-Identifier: MIT
//
// The newest output of one sandbox: whole lines with their time, bounded in bytes.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/sandbox/runtime.h"
#include "sandbox/log_journal.h"

namespace dirigent::sandbox {

class LogRing {
 public:
  static constexpr std::size_t kBytesMax = 1 << 20;
  static constexpr std::size_t kLineBytesMax = 4096;

  // Bytes as they were read from one of the two streams.
  void append(bool is_error_stream, std::string_view bytes, WallTime now);
  // Turns what stands without a newline into lines: at the end of the streams.
  void finish(WallTime now);

  // From here on the newest lines are in a journal as well. The descriptor is to be held for another worker; not open
  // when there can be none, which costs only that.
  io::FileDescriptor share();
  // Takes the lines of another worker's journal as its own, and goes on with it. Before anything is appended.
  void go_on_with(const io::FileDescriptor& journal);

  [[nodiscard]] std::vector<LogLine> newest(std::size_t lines_max) const;
  // The last whole lines that fit into `bytes_max`, each with its newline.
  [[nodiscard]] std::string tail(std::size_t bytes_max) const;
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void add(bool is_error_stream, std::string text, WallTime now);

  std::deque<LogLine> lines_;
  std::size_t bytes_ = 0;
  std::string partial_[2];
  std::unique_ptr<LogJournal> journal_;
};

// The output of the last sandboxes that have ended, for a while.
class EndedLogs {
 public:
  static constexpr std::size_t kSandboxesMax = 256;
  void keep(SandboxId id, std::shared_ptr<LogRing> logs, Instant until);
  void forget_until(Instant now);
  // Empty when nothing is kept of it.
  [[nodiscard]] std::vector<LogLine> newest(SandboxId id, std::size_t lines_max) const;
  void clear() { kept_.clear(); }

 private:
  struct Kept {
    SandboxId id;
    Instant until;
    std::shared_ptr<LogRing> logs;
  };
  std::deque<Kept> kept_;
};

}  // namespace dirigent::sandbox
