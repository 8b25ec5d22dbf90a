// SPDX-License-Identifier: MIT
//
// What happened to a function lately: the last fifty events, packed one behind the other, because every function has
// some and nobody reads most of them. An event as a value takes 184 bytes and two texts on the heap, packed about 80.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/sandbox.h"

namespace dirigent::core {

// One thing that happened to a function.
struct FunctionEvent {
  std::uint64_t sequence = 0;  // grows over all functions
  WallTime at;                 // filled in by the role, not kept
  Instant when;
  std::string kind;            // "created", "verifying", "ready", "traffic", "scaled", "start-failed", ...
  std::optional<RevisionNumber> revision;
  std::string text;            // one line for people
  std::optional<SandboxEnd> end;
};

class FunctionEvents {
 public:
  static constexpr std::size_t kKept = 50;

  // Forgets the oldest one when there are too many.
  void add(const FunctionEvent& event);
  [[nodiscard]] std::size_t size() const { return count_; }

  // Oldest first; each event is made when it is asked for. Valid until the next add().
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = FunctionEvent;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = FunctionEvent;

    explicit Iterator(const char* place) : place_(place) {}
    FunctionEvent operator*() const;
    Iterator& operator++();
    bool operator==(const Iterator&) const = default;

   private:
    const char* place_;
  };
  [[nodiscard]] Iterator begin() const { return Iterator(packed_.data()); }
  [[nodiscard]] Iterator end() const { return Iterator(packed_.data() + packed_.size()); }

 private:
  std::vector<char> packed_;
  std::uint32_t count_ = 0;
};

}  // namespace dirigent::core
