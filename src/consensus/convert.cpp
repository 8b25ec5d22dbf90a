// SPDX-License-Identifier: MIT
#include "consensus/convert.h"

namespace dirigent::consensus {

namespace {

capnp::Data::Reader data(const std::string& bytes) {
  return capnp::Data::Reader(reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size());
}
std::string text(capnp::Data::Reader bytes) { return std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size()); }

Result<Entry> read_entry(schema::LogEntry::Reader from) {
  if (from.getKind() > static_cast<std::uint16_t>(EntryKind::nothing)) {
    return failure(ErrorCode::corrupt, "entry {} is of the unknown kind {} (is the peer newer?)", from.getIndex(), from.getKind());
  }
  Entry entry{from.getIndex(), Term{from.getTerm()}, static_cast<EntryKind>(from.getKind()), text(from.getData())};
  if (entry.kind == EntryKind::members) {
    if (auto members = decode_members(entry.data); !members) return failure(members.error().within(fmt::format("entry {}", entry.index)));
  }
  return entry;
}

}  // namespace

std::size_t weight(const Message& message) {
  std::size_t bytes = 160 + message.bytes.size() + 64 * message.members.size();
  for (const auto& entry : message.entries) bytes += 48 + entry.data.size();
  return bytes;
}

void write(schema::PeerMessage::Builder to, const Message& from) {
  to.setKind(static_cast<std::uint16_t>(from.kind));
  to.setTerm(from.term.value);
  to.setIndex(from.index);
  to.setLogTerm(from.log_term.value);
  to.setCommit(from.commit);
  to.setRefused(from.refused);
  to.setHint(from.hint);
  to.setIsHandover(from.is_handover);
  to.setStampNs(from.stamp);
  to.setOffsetBytes(from.offset);
  to.setTotalBytes(from.total);
  if (!from.bytes.empty()) to.setBytes(data(from.bytes));
  if (!from.members.empty()) to.setMembers(encode_members(from.members));
  if (from.entries.empty()) return;
  auto entries = to.initEntries(static_cast<unsigned>(from.entries.size()));
  for (unsigned i = 0; i < entries.size(); ++i) {
    const Entry& entry = from.entries[i];
    entries[i].setIndex(entry.index);
    entries[i].setTerm(entry.term.value);
    entries[i].setKind(static_cast<std::uint16_t>(entry.kind));
    entries[i].setData(data(entry.data));
  }
}

Result<std::vector<Message>> read(capnp::List<schema::PeerMessage>::Reader list, MemberId sender, MemberId receiver) {
  std::vector<Message> messages;
  for (const auto from : list) {
    if (from.getKind() >= kMessageKinds) continue;
    Message to;
    to.kind = static_cast<MessageKind>(from.getKind());
    to.from = sender;
    to.to = receiver;
    to.term.value = from.getTerm();
    to.index = from.getIndex();
    to.log_term.value = from.getLogTerm();
    to.commit = from.getCommit();
    to.refused = from.getRefused();
    to.hint = from.getHint();
    to.is_handover = from.getIsHandover();
    to.stamp = from.getStampNs();
    to.offset = from.getOffsetBytes();
    to.total = from.getTotalBytes();
    to.bytes = text(from.getBytes());
    const auto text_of_members = from.getMembers();
    auto members = decode_members(std::string_view(text_of_members.begin(), text_of_members.size()));
    if (!members) return failure(members.error());
    to.members = std::move(*members);
    for (const auto from_entry : from.getEntries()) {
      auto entry = read_entry(from_entry);
      if (!entry) return failure(entry.error());
      to.entries.push_back(std::move(*entry));
    }
    messages.push_back(std::move(to));
  }
  return messages;
}

}  // namespace dirigent::consensus
