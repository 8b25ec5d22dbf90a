// SPDX-License-Identifier: MIT
#include "consensus/durable.h"

#include <algorithm>
#include <cstdlib>

#include "dirigent/base/text.h"

namespace dirigent::consensus {

namespace {

constexpr std::string_view kHard = "group/hard";
constexpr std::string_view kSnapshot = "group/snapshot";
constexpr std::string_view kEntries = "group/entry/";
constexpr std::string_view kParts = "group/part/";
constexpr std::size_t kPartBytes = std::size_t{1} << 20;
constexpr std::size_t kEntryHeader = 9;

std::string entry_key(Index index) { return fmt::format("{}{:020}", kEntries, index); }
std::string part_key(std::uint64_t part) { return fmt::format("{}{:08}", kParts, part); }

std::string encode_entry(const Entry& entry) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(entry.term.value >> shift & 0xff));
  bytes.push_back(static_cast<char>(entry.kind));
  return bytes + entry.data;
}

Result<Entry> decode_entry(const std::string& key, const std::string& bytes) {
  Entry entry;
  entry.index = std::strtoull(key.c_str() + kEntries.size(), nullptr, 10);
  const auto broken = [&] { return failure(ErrorCode::corrupt, "the record {} is not an entry of the log (restore the directory, or remove this member and add it anew)", key); };
  if (bytes.size() < kEntryHeader || entry.index == 0) return broken();
  for (int i = 0; i < 8; ++i) entry.term.value |= std::uint64_t{static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)])} << (8 * i);
  if (bytes[8] < 0 || bytes[8] > static_cast<char>(EntryKind::nothing)) return broken();
  entry.kind = static_cast<EntryKind>(bytes[8]);
  entry.data = bytes.substr(kEntryHeader);
  if (entry.kind == EntryKind::members && !decode_members(entry.data)) return broken();
  return entry;
}

std::vector<std::uint64_t> numbers(std::string_view line) {
  std::vector<std::uint64_t> found;
  for (const auto word : split(line, ' ')) {
    const auto number = parse_integer(word);
    if (!number || *number < 0) return {};
    found.push_back(static_cast<std::uint64_t>(*number));
  }
  return found;
}

tl::unexpected<Error> broken_record(std::string_view key) {
  return failure(ErrorCode::corrupt, "the record {} cannot be read (restore the directory, or remove this member and add it anew)", key);
}

}  // namespace

Result<std::optional<Stored>> Durable::load(store::StateLog& log) {
  auto records = log.read_all("group/");
  if (!records) return failure(records.error());
  if (records->empty()) return std::nullopt;
  Stored stored;
  std::string state;
  std::uint64_t bytes = 0;
  std::uint64_t parts = 0;
  bool has_snapshot = false;
  for (const auto& [key, value] : *records) {  // in key order: entries, hard, parts, snapshot
    if (key.starts_with(kEntries)) {
      auto entry = decode_entry(key, value);
      if (!entry) return failure(entry.error());
      stored.entries.push_back(std::move(*entry));
    } else if (key == kHard) {
      const auto words = numbers(value);
      if (words.size() != 2) return broken_record(key);
      stored.hard = {Term{words[0]}, MemberId{static_cast<std::uint32_t>(words[1])}};
    } else if (key.starts_with(kParts)) {
      state += value;
      ++parts;
    } else if (key == kSnapshot) {
      const std::size_t line = std::min(value.find('\n'), value.size());
      const auto words = numbers(std::string_view(value).substr(0, line));
      auto members = decode_members(std::string_view(value).substr(std::min(line + 1, value.size())));
      if (words.size() != 4 || !members) return broken_record(key);
      stored.snapshot = {words[0], Term{words[1]}, std::move(*members), nullptr};
      parts_ = words[2];
      bytes = words[3];
      has_snapshot = true;
    }
  }
  if (!has_snapshot || parts != parts_ || bytes != state.size()) return broken_record(kSnapshot);
  if (stored.snapshot.index > 0) stored.snapshot.bytes = std::make_shared<const std::string>(std::move(state));
  Index expected = stored.snapshot.index;
  for (const auto& entry : stored.entries) {
    if (entry.index != ++expected) return broken_record(entry_key(expected));
  }
  return stored;
}

std::vector<store::Write> Durable::records(const DiskWrite& write) {
  std::vector<store::Write> records;
  if (write.hard) records.push_back({std::string(kHard), fmt::format("{} {}", write.hard->term, write.hard->vote)});
  if (write.erase) {
    for (Index index = write.erase->first; index <= write.erase->second; ++index) records.push_back({entry_key(index), std::nullopt});
  }
  if (write.snapshot) {
    static const std::string kNoBytes;
    const std::string& bytes = write.snapshot->bytes ? *write.snapshot->bytes : kNoBytes;
    std::uint64_t parts = 0;
    for (std::size_t at = 0; at < bytes.size(); at += kPartBytes) records.push_back({part_key(parts++), bytes.substr(at, kPartBytes)});
    for (std::uint64_t old = parts; old < parts_; ++old) records.push_back({part_key(old), std::nullopt});
    parts_ = parts;
    records.push_back({std::string(kSnapshot), fmt::format("{} {} {} {}\n{}", write.snapshot->index, write.snapshot->term, parts, bytes.size(),
                                                            encode_members(write.snapshot->members))});
  }
  for (const auto& entry : write.entries) records.push_back({entry_key(entry.index), encode_entry(entry)});
  return records;
}

DiskWrite first_write(const Stored& stored) {
  DiskWrite write;
  write.hard = stored.hard;
  write.snapshot = stored.snapshot;
  return write;
}

}  // namespace dirigent::consensus
