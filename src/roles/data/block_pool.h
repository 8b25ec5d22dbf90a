// SPDX-License-Identifier: MIT
//
// Memory for bytes on their way: blocks of three sizes, kept in free lists per shard, so that a request in the steady state
// allocates nothing and an idle connection holds none. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace dirigent::roles {

struct Block {
  Block* next_free;
  std::size_t capacity;
  char* data() { return reinterpret_cast<char*>(this + 1); }
};

class BlockPool {
 public:
  static constexpr std::size_t kSmall = 4096 - sizeof(Block);
  static constexpr std::size_t kMedium = 16384 - sizeof(Block);
  static constexpr std::size_t kLarge = 65536 - sizeof(Block);

  BlockPool() = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    for (Class& size : classes_) {
      while (Block* block = size.free) {
        size.free = block->next_free;
        std::free(block);
      }
    }
  }

  // A block with room for at least `capacity` bytes.
  Block* take(std::size_t capacity) {
    for (Class& size : classes_) {
      if (capacity > size.capacity) continue;
      in_use_ += sizeof(Block) + size.capacity;
      if (Block* block = size.free) {
        size.free = block->next_free;
        --size.kept;
        return block;
      }
      return allocate(size.capacity);
    }
    in_use_ += sizeof(Block) + capacity;
    return allocate(capacity);  // a head larger than the largest class
  }

  void give(Block* block) {
    if (block == nullptr) return;
    in_use_ -= sizeof(Block) + block->capacity;
    for (Class& size : classes_) {
      if (block->capacity != size.capacity) continue;
      if (size.kept == size.kept_max) break;
      block->next_free = size.free;
      size.free = block;
      ++size.kept;
      return;
    }
    std::free(block);
  }

  // Bytes in blocks that somebody holds.
  [[nodiscard]] std::size_t in_use() const { return in_use_; }

 private:
  struct Class {
    std::size_t capacity;
    std::size_t kept_max;  // 4 MiB of each at most lie idle
    std::size_t kept = 0;
    Block* free = nullptr;
  };

  static Block* allocate(std::size_t capacity) {
    void* memory = std::malloc(sizeof(Block) + capacity);
    if (memory == nullptr) throw std::bad_alloc();
    return new (memory) Block{nullptr, capacity};
  }

  std::array<Class, 3> classes_{{{kSmall, 1024}, {kMedium, 256}, {kLarge, 64}}};
  std::size_t in_use_ = 0;
};

}  // namespace dirigent::roles
