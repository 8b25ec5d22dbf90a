// SPDX-License-Identifier: MIT
#include "dirigent/core/function_events.h"

#include <cstring>
#include <string_view>
#include <type_traits>

namespace dirigent::core {

namespace {

// An event is a head, the text of its kind, its text, and when it tells of an end the end's head and two texts.
struct Head {
  std::uint64_t sequence;
  std::int64_t when;
  std::uint32_t size;  // of the whole event
  std::uint32_t revision;
  std::uint32_t text_size;
  std::uint8_t kind_size;
  bool has_revision;
  bool has_end;
};
struct EndHead {
  std::int32_t exit_code;
  std::int32_t signal;
  std::uint32_t detail_size;
  std::uint32_t output_size;
  EndCause cause;
};
constexpr std::size_t kKindSizeMax = 255;

template <class T>
T read(const char* place) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, place, sizeof(T));
  return value;
}

class Packer {
 public:
  explicit Packer(std::vector<char>& out) : out_(out) {}
  template <class T>
  void put_head(const T& head) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const char*>(&head);
    out_.insert(out_.end(), bytes, bytes + sizeof(T));
  }
  void put(std::string_view text) { out_.insert(out_.end(), text.begin(), text.end()); }

 private:
  std::vector<char>& out_;
};

}  // namespace

void FunctionEvents::add(const FunctionEvent& event) {
  if (count_ == kKept) {
    packed_.erase(packed_.begin(), packed_.begin() + read<Head>(packed_.data()).size);
    --count_;
  }
  const std::string_view kind = std::string_view(event.kind).substr(0, kKindSizeMax);
  std::size_t size = sizeof(Head) + kind.size() + event.text.size();
  if (event.end) size += sizeof(EndHead) + event.end->detail.size() + event.end->last_output.size();
  // Room for this one and no more: events are rare, and what doubles would be half empty.
  packed_.reserve(packed_.size() + size);
  Packer packer(packed_);
  packer.put_head(Head{event.sequence, event.when.time_since_epoch().count(), static_cast<std::uint32_t>(size),
                       event.revision.value_or(RevisionNumber{}).value, static_cast<std::uint32_t>(event.text.size()),
                       static_cast<std::uint8_t>(kind.size()), event.revision.has_value(), event.end.has_value()});
  packer.put(kind);
  packer.put(event.text);
  if (event.end) {
    const SandboxEnd& end = *event.end;
    packer.put_head(EndHead{end.exit_code, end.signal, static_cast<std::uint32_t>(end.detail.size()),
                            static_cast<std::uint32_t>(end.last_output.size()), end.cause});
    packer.put(end.detail);
    packer.put(end.last_output);
  }
  ++count_;
}

FunctionEvent FunctionEvents::Iterator::operator*() const {
  const auto head = read<Head>(place_);
  const char* next = place_ + sizeof(Head);
  const auto take = [&](std::size_t size) {
    std::string text(next, size);
    next += size;
    return text;
  };
  FunctionEvent event;
  event.sequence = head.sequence;
  event.when = Instant(Duration(head.when));
  event.kind = take(head.kind_size);
  if (head.has_revision) event.revision = RevisionNumber{head.revision};
  event.text = take(head.text_size);
  if (head.has_end) {
    const auto end_head = read<EndHead>(next);
    next += sizeof(EndHead);
    SandboxEnd& end = event.end.emplace();
    end.cause = end_head.cause;
    end.exit_code = end_head.exit_code;
    end.signal = end_head.signal;
    end.detail = take(end_head.detail_size);
    end.last_output = take(end_head.output_size);
  }
  return event;
}

FunctionEvents::Iterator& FunctionEvents::Iterator::operator++() {
  place_ += read<Head>(place_).size;
  return *this;
}

}  // namespace dirigent::core
