// SPDX-License-Identifier: MIT
#include "roles/data/access_log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <iterator>

#include "dirigent/base/log.h"
#include "roles/data/http_head.h"
#include "roles/data/problem.h"

namespace dirigent::roles {

namespace {

constexpr std::size_t kPendingMax = 4 * 1024 * 1024;  // above it lines are dropped
constexpr std::size_t kPendingSoon = 64 * 1024;       // above it the writer is woken
constexpr auto kWriteInterval = std::chrono::milliseconds(200);
constexpr int kReaderPatience = 1000;  // ms for whoever reads a pipe, once the data plane stops

Result<int> open_file(const std::string& path) {
  if (path == "-") return STDOUT_FILENO;
  // Non-blocking matters for pipes only: one without a reader is an error, not a wait.
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0640);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot open the access log {}", path));
  return fd;
}

// "2026-11-26T03:48:08.123456Z"
void add_time(std::string& line, std::int64_t at_us) {
  const std::time_t seconds = at_us / 1'000'000;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  fmt::format_to(std::back_inserter(line), "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", utc.tm_year + 1900,
                 utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, at_us % 1'000'000);
}

// The second field of "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".
std::string_view trace_id_of(std::string_view trace_parent) {
  const std::size_t dash = trace_parent.find('-');
  if (dash == std::string_view::npos) return {};
  const std::string_view id = trace_parent.substr(dash + 1, 32);
  return id.size() == 32 && id.find('-') == std::string_view::npos ? id : std::string_view{};
}

void add(std::string& line, std::string_view key, std::string_view value) {
  line.append(",\"").append(key).append("\":");
  append_json_string(line, value);
}

}  // namespace

Result<std::unique_ptr<AccessLog>> AccessLog::open(const std::string& path) {
  const Result<int> fd = open_file(path);
  if (!fd) return failure(fd.error());
  return std::unique_ptr<AccessLog>(new AccessLog(path, *fd));
}

AccessLog::AccessLog(std::string path, int fd) : path_(std::move(path)), fd_(fd) {
  // Signals are the main thread's business.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_setname_np(thread_.native_handle(), "access-log");
}

AccessLog::~AccessLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  thread_.join();
  if (path_ != "-") ::close(fd_);
}

void AccessLog::add(std::string_view line) {
  const std::lock_guard lock(mutex_);
  if (pending_.size() + line.size() + 1 > kPendingMax) {
    dropped_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const bool was_small = pending_.size() < kPendingSoon;
  pending_.append(line).push_back('\n');
  if (was_small && pending_.size() >= kPendingSoon) wake_.notify_one();
}

void AccessLog::run() {
  std::string lines;
  std::unique_lock lock(mutex_);
  for (bool last = false; !last;) {
    wake_.wait_for(lock, kWriteInterval, [this] { return stopping_ || pending_.size() >= kPendingSoon; });
    last = stopping_;
    std::swap(lines, pending_);
    if (lines.empty()) continue;
    lock.unlock();
    follow_the_path();
    write_all(lines);
    lines.clear();
    lock.lock();
  }
}

void AccessLog::write_all(std::string_view lines) {
  while (!lines.empty()) {
    // A pipe says with POLLOUT that it takes PIPE_BUF bytes; more could block, for standard output is not ours to
    // change.
    pollfd output{fd_, POLLOUT, 0};
    const bool is_patient = !stopping_.load();
    const int ready = ::poll(&output, 1, is_patient ? 100 : kReaderPatience);
    if (ready == 0 && is_patient) continue;
    ssize_t written = -1;
    if (ready != 0) written = ::write(fd_, lines.data(), std::min<std::size_t>(lines.size(), PIPE_BUF));
    if (written < 0 && ready != 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (written <= 0) {
      // A full disk must not fill our own log as well.
      const auto lost = static_cast<std::uint64_t>(std::count(lines.begin(), lines.end(), '\n'));
      if (dropped_.fetch_add(lost, std::memory_order_relaxed) == 0) {
        log_warn("data", "cannot write the access log {}: {}; dirigent_access_log_dropped_total counts what is lost",
                 path_, ready == 0 ? "nobody reads it" : ::strerror(errno));
      }
      return;
    }
    lines.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Whoever rotates logs moves the file away: from then on the path names another file, or none.
void AccessLog::follow_the_path() {
  if (path_ == "-") return;
  struct stat ours {};
  struct stat there {};
  const bool is_same = ::fstat(fd_, &ours) == 0 && ::stat(path_.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
                       ours.st_dev == there.st_dev;
  if (is_same) return;
  const Result<int> fd = open_file(path_);
  if (!fd) return;  // the old file is better than none
  ::close(fd_);
  fd_ = *fd;
}

// --- lines --------------------------------------------------------------------------------------------------------

RequestWords words_of_head(std::string_view head) {
  RequestWords words;
  const std::string_view first = head.substr(0, head.find("\r\n"));
  const std::size_t one = first.find(' ');
  const std::size_t two = first.rfind(' ');
  if (one == std::string_view::npos || two <= one) return words;
  words.method = first.substr(0, one);
  words.target = first.substr(one + 1, two - one - 1);
  for (std::size_t at = first.size() + 2; at < head.size();) {
    const std::size_t end = std::min(head.find("\r\n", at), head.size());
    const std::string_view line = head.substr(at, end - at);
    at = end + 2;
    const std::size_t colon = line.find(": ");
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = line.substr(colon + 2);
    if (equals_ignoring_case(name, "user-agent")) words.user_agent = value;
    if (equals_ignoring_case(name, "referer")) words.referer = value;
    if (equals_ignoring_case(name, "traceparent")) words.trace_parent = value;
  }
  return words;
}

void write_access_line(const CallRecord& record, const RequestWords& words, std::string& line) {
  const auto out = [&line] { return std::back_inserter(line); };
  line = "{\"time\":\"";
  add_time(line, record.started_us);
  line += "\",\"httpRequest\":{\"requestMethod\":";
  append_json_string(line, words.method);
  add(line, "requestUrl", words.target);
  fmt::format_to(out(), ",\"requestSize\":\"{}\",\"status\":{},\"responseSize\":\"{}\"", record.bytes_in, record.status,
                 record.bytes_out);
  add(line, "userAgent", words.user_agent);
  add(line, "remoteIp", words.remote_address);
  add(line, "referer", words.referer);
  fmt::format_to(out(), ",\"latency\":\"{}.{:06}s\"}}", record.duration_us / 1'000'000, record.duration_us % 1'000'000);
  add(line, "traceId", trace_id_of(words.trace_parent));
  add(line, "callId", record.call_id());
  add(line, "function", record.function());
  const bool has_revision = record.revision != 0;
  add(line, "revision",
      has_revision ? revision_name(FunctionName{std::string(record.function())}, RevisionNumber{record.revision}) : "");
  add(line, "sandbox", record.sandbox != 0 ? to_string(SandboxId{record.sandbox}) : "");
  add(line, "node", record.node());
  fmt::format_to(out(), ",\"cold\":{}", record.cold);
  if (record.has_phases) {
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      const bool of_every_call =
          phase == static_cast<std::size_t>(Phase::queue) || phase >= static_cast<std::size_t>(Phase::proxy);
      if (!record.cold && !of_every_call) continue;
      fmt::format_to(out(), ",\"{}_ms\":{}.{:03}", to_string(static_cast<Phase>(phase)), record.phases_us[phase] / 1000,
                     record.phases_us[phase] % 1000);
    }
  }
  add(line, "reason", record.why() == Reason::none ? "" : to_string(record.why()));
  line += '}';
}

}  // namespace dirigent::roles
