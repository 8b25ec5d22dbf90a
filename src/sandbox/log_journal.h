// SPDX-License-Identifier: MIT
//
// The newest lines of one sandbox in memory that outlives its worker: a memory file, mapped by the worker and held open
// by the spawner or guard, from which the next worker reads what was printed before a kill. Whenever the writer is
// killed, what stands in it is whole lines.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox {

class LogJournal {
 public:
  // Pages are only taken when they are written to.
  static constexpr std::size_t kBytes = 64 * 1024;

  // A new one, and the descriptor to be held.
  static Result<std::unique_ptr<LogJournal>> make(io::FileDescriptor& held);
  // The one behind a descriptor of make(), which need not stay open. corrupt: it is none.
  static Result<std::unique_ptr<LogJournal>> open(const io::FileDescriptor& held);
  LogJournal(const LogJournal&) = delete;
  LogJournal& operator=(const LogJournal&) = delete;
  ~LogJournal();

  // The oldest lines make room. REQUIRES: the text is shorter than a quarter of kBytes.
  void write(const LogLine& line);
  // Oldest first.
  [[nodiscard]] std::vector<LogLine> lines() const;

 private:
  struct Header;
  struct Entry;
  explicit LogJournal(void* mapped) : mapped_(mapped) {}
  static Result<std::unique_ptr<LogJournal>> map(const io::FileDescriptor& file);
  [[nodiscard]] Header& header() const;
  void copy_in(std::uint64_t position, const void* bytes, std::size_t size);
  void copy_out(std::uint64_t position, void* bytes, std::size_t size) const;

  void* mapped_;
};

}  // namespace dirigent::sandbox
