// SPDX-License-Identifier: MIT
//
// The two halves of the HTTP/1 target. parts[0] is what the client sends, parts[1] what the sandbox answers.
#pragma once

#include <memory>

#include "driver.h"

namespace dirigent::fuzz {

// Head scanner, head parser and body decoder: the same result however the bytes are cut, the same framing as the
// reference reads, and a head that has been accepted and written again is read as the same request.
Outcome check_parsers(const Input& input);

// A whole data plane with sockets and one sandbox, on the calling thread. What the function gets are the client's
// requests as the reference reads them, in order and without change; what the client gets is the sandbox's answer as
// the reference reads it, or visibly none; and when all is over nothing is left open.
class ShardCheck {
 public:
  ShardCheck();
  ~ShardCheck();
  Outcome run(const Input& input);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Mixes `value` into a behaviour number.
inline void mix(std::uint64_t& behaviour, std::uint64_t value) {
  behaviour = (behaviour ^ value) * 0x9e3779b97f4a7c15ULL;
}

}  // namespace dirigent::fuzz
