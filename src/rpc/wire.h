// SPDX-License-Identifier: MIT
//
// Wire: one connected stream socket as a capnp::MessageStream, twice as fast as KJ's own stream because it takes many
// messages out of one read and puts many into one write.
//
//   read:   one recv into a small buffer of the wire, more into the loop's scratch buffer -> all whole messages -> RPC
//   write:  messages are appended to one buffer -> sent when kCorkBytes are queued, or in the loop's next turn
//
// Three things keep thousands of quiet connections cheap. A message that only tells the peer to forget a finished call
// (Finish, Release) is no reason to send: it travels with the next one. So does an answer without content, for
// kAnswerPatience at the most, as long as it is the only one that waits: whoever may have two calls unanswered is never held
// up by it. And a sign of life is a frame of one segment without a word, which never comes to the RPC system and is not
// answered.
//
// Bytes are untrusted: whatever is not framed as Cap'n Proto, or exceeds a limit, ends the wire with the reason. The
// state is shared with the socket's pending handlers, so that dropping a KJ promise never leaves one without its buffer.
#pragma once

#include <asio/generic/stream_protocol.hpp>
#include <capnp/serialize-async.h>
#include <capnp/serialize.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/base/timer_wheel.h"
#include "rpc/kj_loop.h"

namespace dirigent::rpc {

using Socket = asio::generic::stream_protocol::socket;

// The limits of what a peer may send, see docs/protocol_rpc.md.
inline constexpr std::size_t kMessageBytesMax = 64 * 1024 * 1024;
inline constexpr std::size_t kSegmentsMax = 512;
// A message may be looked at twice over in all, so that pointers to one place cannot multiply work.
inline constexpr std::uint64_t kTraversalWordsMax = 2 * kMessageBytesMax / sizeof(capnp::word);

// So long may an answer without content wait for a message to travel with.
inline constexpr Duration kAnswerPatience = 250ms;

// The reason of an orderly end.
inline constexpr const char* kPeerClosed = "the peer closed the connection";

class Wire : public std::enable_shared_from_this<Wire> {
 public:
  // `peer` is its address, for messages. `ended` is called once, from a handler of its own, unless close() came first.
  Wire(KjLoop& kj, Socket socket, std::string peer, std::function<void(std::string why)> ended);
  ~Wire();

  // A view of the wire for the RPC system; to be destroyed inside KjLoop::inside().
  kj::Own<capnp::MessageStream> stream();

  // Sends what it can without waiting, closes the socket, calls nobody any more.
  void close();
  // Ends the wire as if the peer had.
  void fail(std::string why);

  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] bool ended() const { return ended_; }
  [[nodiscard]] Instant last_received() const { return last_received_; }
  [[nodiscard]] Instant last_sent() const { return last_sent_; }
  // Sends a sign of life in the loop's next turn.
  void ping();

  // Bytes queued and not yet taken by the kernel.
  [[nodiscard]] std::size_t unsent() const { return out_.size() - out_begin_; }

 private:
  class Stream;
  using Incoming = kj::Maybe<capnp::MessageReaderAndFds>;

  kj::Promise<Incoming> read(capnp::ReaderOptions options);
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments);
  kj::Promise<void> finish_writing();

  void wait_readable();
  void on_readable(std::size_t received);
  void take(const char* bytes, std::size_t size);
  // Takes whole messages from the front of `bytes`; returns how many bytes they had.
  std::size_t parse(const char* bytes, std::size_t size);
  void deliver();
  // By when the queued bytes are sent: with the next message, with it or after a while, or in the loop's next turn.
  enum class Urgency { with_the_next, soon, now };
  static Urgency urgency_of(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments);
  void post_flush();
  void flush();

  KjLoop& kj_;
  Socket socket_;
  std::string peer_;
  std::function<void(std::string)> on_ended_;
  bool ended_ = false;
  std::string why_;
  Instant last_received_;
  Instant last_sent_;

  // Of the usual size of a message; what is longer is read on into the loop's buffer.
  std::array<char, 1024> first_bytes_;
  std::vector<char> partial_;                           // the received part of a message that is not complete
  std::deque<kj::Own<capnp::MessageReader>> messages_;  // complete ones, not yet asked for
  kj::Maybe<kj::Own<kj::PromiseFulfiller<Incoming>>> reader_;
  capnp::ReaderOptions options_;
  bool reading_ = false;

  std::vector<char> out_;
  std::size_t out_begin_ = 0;
  bool flush_posted_ = false;
  bool write_waiting_ = false;
  bool write_ended_ = false;
  bool answer_waits_ = false;
  TimerNode answer_timer_;
};

}  // namespace dirigent::rpc
