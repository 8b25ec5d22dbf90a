// SPDX-License-Identifier: MIT
//
// Function "f" of a fuzz target: takes the data plane's connections, reads requests with the reference, and answers the
// first with what the input says and the others with "clean".
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "driver.h"
#include "loopback.h"
#include "reference.h"

namespace dirigent::fuzz {

class FakeFunction {
 public:
  explicit FakeFunction(Loopback& net) : net_(net) {}

  // A new run. `early`: answers when a head has come, and does not wait for the body.
  void begin(const std::string& answer, Choices& choices);
  // Accepts, reads, answers. True when anything moved.
  bool turn();
  void close_all() { connections_.clear(); }

  // What it got, whole, in the order of its ends.
  [[nodiscard]] const std::vector<ReferenceMessage>& seen() const { return seen_; }
  // What the data plane sent is no request.
  [[nodiscard]] const std::optional<std::string>& finding() const { return finding_; }
  // The answer of the input as the reference reads it: its final response. Meaningful once spoken().
  [[nodiscard]] const ReferenceMessage& answer() const { return answer_; }
  [[nodiscard]] bool spoken() const { return spoken_; }
  [[nodiscard]] bool early() const { return early_; }
  // The answer is neither complete nor certainly broken, and the sandbox does not end: nobody can say anything yet.
  [[nodiscard]] bool keeps_waiting() const;
  // Bytes behind the answer: when they come after the next request, nobody can tell them from its answer.
  [[nodiscard]] bool has_surplus() const { return has_surplus_; }

 private:
  struct Connection {
    std::unique_ptr<Peer> peer;
    bool answered = false;  // the request that is still arriving
    bool tunnel = false;
  };
  void speak(Connection& connection, const ReferenceMessage& request);
  void listen_to(Connection& connection);

  Loopback& net_;
  std::string text_;
  Choices* choices_ = nullptr;
  Peer::End end_ = Peer::End::none;
  bool early_ = false;
  bool spoken_ = false;
  bool has_surplus_ = false;
  bool head_may_go_on_ = false;
  ReferenceMessage answer_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<ReferenceMessage> seen_;
  std::optional<std::string> finding_;
};

// Pieces in which bytes go over the wire: mostly one, sometimes many.
std::vector<std::string_view> cut(std::string_view bytes, Choices& choices);
// The final response in `bytes`, interim ones before it skipped; `size` gets where it ends, `at` where it begins.
ReferenceMessage final_response(std::string_view bytes, bool answers_head, bool ended, std::size_t* size = nullptr,
                                std::size_t* at = nullptr);
bool is_hop_by_hop(std::string_view name);
// What may reach a function of a request that a client sent: its own headers, less what is between neighbours, and
// ours.
std::optional<std::string> check_forwarded(const ReferenceMessage& seen, const ReferenceMessage& sent);

}  // namespace dirigent::fuzz
