// SPDX-License-Identifier: MIT
//
// Bytes of one direction of one HTTP/2 stream that have arrived and are not relayed yet: a chain of blocks of the
// shard's pool. Bytes never move once they are in, so that a view of the front stays valid while more is added behind
// it. How much it may hold is the business of the stream's flow-control window. One thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "roles/data/block_pool.h"

namespace dirigent::roles {

class StreamBuffer {
 public:
  StreamBuffer() = default;
  StreamBuffer(const StreamBuffer&) = delete;
  StreamBuffer& operator=(const StreamBuffer&) = delete;

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }

  void append(BlockPool& pool, std::string_view bytes) {
    size_ += bytes.size();
    while (!bytes.empty()) {
      if (tail_ == nullptr || end_ == tail_->capacity) grow(pool, bytes.size());
      const std::size_t part = std::min(bytes.size(), tail_->capacity - end_);
      std::memcpy(tail_->data() + end_, bytes.data(), part);
      end_ += part;
      bytes.remove_prefix(part);
    }
  }
  // The longest piece in one block; empty when there is nothing.
  [[nodiscard]] std::string_view front() const {
    if (size_ == 0) return {};
    return {head_->data() + begin_, (head_ == tail_ ? end_ : head_->capacity) - begin_};
  }
  // REQUIRES: `bytes` is at most the size of front().
  void pop(BlockPool& pool, std::size_t bytes) {
    begin_ += bytes;
    size_ -= bytes;
    if (begin_ != (head_ == tail_ ? end_ : head_->capacity)) return;
    Block* used = head_;
    head_ = head_->next_free;
    begin_ = 0;
    if (head_ == nullptr) {
      tail_ = nullptr;
      end_ = 0;
    }
    pool.give(used);
  }
  void clear(BlockPool& pool) {
    while (head_ != nullptr) {
      Block* used = head_;
      head_ = head_->next_free;
      pool.give(used);
    }
    tail_ = nullptr;
    begin_ = end_ = size_ = 0;
  }

 private:
  void grow(BlockPool& pool, std::size_t wanted) {
    Block* block = pool.take(wanted <= BlockPool::kSmall ? BlockPool::kSmall : BlockPool::kMedium);
    block->next_free = nullptr;
    if (tail_ == nullptr) {
      head_ = block;
      begin_ = 0;
    } else {
      tail_->next_free = block;
    }
    tail_ = block;
    end_ = 0;
  }

  Block* head_ = nullptr;  // chained by next_free, which a block in use has no other need for
  Block* tail_ = nullptr;
  std::size_t begin_ = 0;  // in head_
  std::size_t end_ = 0;    // in tail_
  std::size_t size_ = 0;
};

}  // namespace dirigent::roles
