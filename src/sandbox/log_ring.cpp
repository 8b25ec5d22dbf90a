// SPDX-License-Identifier: MIT
#include "sandbox/log_ring.h"

#include <algorithm>

#include "dirigent/base/log.h"

namespace dirigent::sandbox {

namespace {
// A line costs its object too, or a million empty lines would cost a hundred times the bound.
constexpr std::size_t kLineOverhead = sizeof(LogLine);
}  // namespace

void LogRing::append(bool is_error_stream, std::string_view bytes, WallTime now) {
  std::string& partial = partial_[is_error_stream ? 1 : 0];
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, newline);
    const std::size_t room = kLineBytesMax - partial.size();
    if (piece.size() > room) {
      partial += piece.substr(0, room);
      bytes.remove_prefix(room);
      add(is_error_stream, std::exchange(partial, {}), now);
      continue;
    }
    partial += piece;
    if (newline == std::string_view::npos) return;
    bytes.remove_prefix(newline + 1);
    add(is_error_stream, std::exchange(partial, {}), now);
  }
}

void LogRing::finish(WallTime now) {
  for (const bool is_error_stream : {false, true}) {
    std::string& partial = partial_[is_error_stream ? 1 : 0];
    if (!partial.empty()) add(is_error_stream, std::exchange(partial, {}), now);
  }
}

void LogRing::add(bool is_error_stream, std::string text, WallTime now) {
  bytes_ += text.size() + kLineOverhead;
  lines_.push_back(LogLine{now, is_error_stream, std::move(text)});
  if (journal_) journal_->write(lines_.back());
  while (bytes_ > kBytesMax) {
    bytes_ -= lines_.front().text.size() + kLineOverhead;
    lines_.pop_front();
  }
}

io::FileDescriptor LogRing::share() {
  io::FileDescriptor held;
  auto journal = LogJournal::make(held);
  if (!journal) {
    log_warn("sandbox", "what a sandbox prints would not outlive this worker: {}", journal.error().message);
    return {};
  }
  journal_ = std::move(*journal);
  for (const auto& line : lines_) journal_->write(line);
  return held;
}

void LogRing::go_on_with(const io::FileDescriptor& journal) {
  auto opened = LogJournal::open(journal);
  if (!opened) {
    log_warn("sandbox", "what a sandbox has printed before is lost: {}", opened.error().message);
    return;
  }
  for (auto& line : (*opened)->lines()) add(line.is_error_stream, std::move(line.text), line.time);
  journal_ = std::move(*opened);
}

std::vector<LogLine> LogRing::newest(std::size_t lines_max) const {
  const std::size_t count = std::min(lines_max, lines_.size());
  return {lines_.end() - static_cast<std::ptrdiff_t>(count), lines_.end()};
}

std::string LogRing::tail(std::size_t bytes_max) const {
  std::size_t size = 0;
  auto first = lines_.end();
  while (first != lines_.begin() && size + std::prev(first)->text.size() + 1 <= bytes_max) {
    --first;
    size += first->text.size() + 1;
  }
  std::string text;
  for (; first != lines_.end(); ++first) (text += first->text) += '\n';
  return text;
}

void EndedLogs::keep(SandboxId id, std::shared_ptr<LogRing> logs, Instant until) {
  kept_.push_back({id, until, std::move(logs)});
  while (kept_.size() > kSandboxesMax) kept_.pop_front();
}

void EndedLogs::forget_until(Instant now) {
  while (!kept_.empty() && kept_.front().until <= now) kept_.pop_front();
}

std::vector<LogLine> EndedLogs::newest(SandboxId id, std::size_t lines_max) const {
  const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [id](const Kept& kept) { return kept.id == id; });
  return found == kept_.rend() ? std::vector<LogLine>{} : found->logs->newest(lines_max);
}

}  // namespace dirigent::sandbox
