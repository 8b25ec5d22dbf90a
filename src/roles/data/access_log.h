// SPDX-License-Identifier: MIT
//
// The access log: one JSON line per sampled call, with the keys of Knative's request log and a few of ours
// (docs/operations.md). Shards hand lines over and never wait for the disk: a thread of the log's own writes them. When
// it cannot keep up, lines are dropped and counted.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "dirigent/base/result.h"
#include "roles/data/call_log.h"

namespace dirigent::roles {

class AccessLog {
 public:
  // `path`: appended to, made when absent, opened again when it has been moved away; "-" is standard output.
  // Errors: that of the file system, with the path.
  static Result<std::unique_ptr<AccessLog>> open(const std::string& path);
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;
  // Writes what has been handed over.
  ~AccessLog();

  // A line without its end. Any thread.
  void add(std::string_view line);
  // Lines that were not written. Any thread.
  [[nodiscard]] std::uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  AccessLog(std::string path, int fd);
  void run();
  void write_all(std::string_view lines);
  void follow_the_path();

  const std::string path_;
  int fd_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::string pending_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> dropped_{0};
  std::thread thread_;
};

// What a log line says about a request besides its record. Views into a head that is at hand.
struct RequestWords {
  std::string_view method;
  std::string_view target;
  std::string_view user_agent;
  std::string_view referer;
  std::string_view trace_parent;
  std::string_view remote_address;
};
// The words of a request head as HTTP/1.1 text; what it does not have stays empty.
RequestWords words_of_head(std::string_view head);
// Replaces `line`.
void write_access_line(const CallRecord& record, const RequestWords& words, std::string& line);

}  // namespace dirigent::roles
