// SPDX-License-Identifier: MIT
//
// The two ends between which an Exchange relays: the front towards the client and the leg towards the sandbox. One
// implementation per protocol and side; the Exchange knows none of them.
//
// Heads travel between the three as HTTP/1.1 text, whatever the wire speaks: one parser then judges every head, however
// it came. Bodies travel as views of payload without any framing.
//
// One thread: the shard's. Nothing here calls back while it is being called, but for what is said at the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "roles/data/http_head.h"
#include "roles/data/poller.h"

namespace dirigent::roles {

class Exchange;
class TextWriter;

// Part of a body.
struct BodyPart {
  enum class State {
    ready,   // `payload` (may be empty), and the end when `last`
    wait,    // nothing now; the Exchange is told when there is
    ended,   // the peer has left in the middle
    failed,  // `error` says why
    bad,     // `problem` says what is wrong with it
  };
  State state = State::wait;
  std::string_view payload;  // stays until the next part is asked for
  bool last = false;
  int error = 0;
  const char* problem = nullptr;
};

// What a front adds to the head of an answer, which it gets without framing and without the empty line at its end.
struct AnswerFraming {
  int status = 0;
  Framing framing = Framing::none;
  bool has_content_length = false;
  std::uint64_t content_length = 0;
  std::string_view upgrade;  // of a 101
  bool complete = false;     // no payload and no trailers follow
};

class ExchangeFront {
 public:
  // Room that an answer's head must leave for what the front adds.
  static constexpr std::size_t kHeadRoom = 256;

  // The request's body, part by part.
  virtual BodyPart read_body() = 0;
  // Lines with CR LF, of a body that has ended.
  [[nodiscard]] virtual std::string_view body_trailers() const = 0;

  // Queue what is to be sent: views and blocks stay until flush() says done or the exchange is over.
  // False: the client is gone.
  virtual bool send_continue() = 0;
  virtual void send_interim(char* head, std::size_t size) = 0;  // complete, with its empty line
  // `writer` has written the head so far, beginning at `head`, and has kHeadRoom left.
  virtual void send_head(char* head, TextWriter& writer, const AnswerFraming& framing) = 0;
  virtual void send_body(std::string_view payload, bool last, std::string_view trailers) = 0;
  // Nothing of an answer has left yet: forgets what is queued.
  virtual void drop_queued() = 0;
  // Part of what is queued has left, and the rest has not: nothing else may follow.
  [[nodiscard]] virtual bool is_partly_sent() const = 0;
  // done: everything queued has left. blocked: the Exchange is told when it has.
  virtual PolledSocket::Transfer flush() = 0;
  // The request waits for a slot: what memory it does not need meanwhile may go.
  virtual void parked() = 0;

  // The client understands no status below 200.
  [[nodiscard]] virtual bool is_http10() const = 0;
  // It brings an asynchronous call that was accepted before.
  [[nodiscard]] virtual bool is_stored() const { return false; }
  // After 101: bytes both ways, no framing.
  virtual void begin_tunnel() = 0;

  // Ends. The Exchange has given everything back, and the front returns it to the shard: it may not be touched after.
  virtual void exchange_done() = 0;   // the answer has left as a whole
  virtual void exchange_cut() = 0;    // it broke off: the client must see that
  virtual void exchange_left() = 0;   // the client has gone

 protected:
  ~ExchangeFront() = default;
};

class SandboxLeg {
 public:
  // Queue the request. `head`: a whole HTTP/1.1 head, which stays until forget(). `chunked`: its body has no known
  // length.
  virtual void send_head(char* head, std::size_t size, bool chunked) = 0;
  virtual void send_body(std::string_view payload, bool last, std::string_view trailers) = 0;
  [[nodiscard]] virtual bool pending() const = 0;
  virtual PolledSocket::Transfer flush() = 0;
  // A tunnel's client has ended its half.
  virtual void end_half() = 0;
  // The sandbox takes no more of the request, and what it said before is still to be read.
  virtual void set_broken() = 0;

  // The next head of the answer, whole: BodyPart::payload.
  virtual BodyPart read_head() = 0;
  // REQUIRES: a head has been read that is no interim one. `buffered_only`: no system call.
  virtual void begin_body(Framing framing, std::uint64_t length) = 0;
  virtual BodyPart read_body(bool buffered_only) = 0;
  [[nodiscard]] virtual bool body_done() const = 0;
  [[nodiscard]] virtual std::string_view body_trailers() const = 0;

  // Part of the request may have reached the sandbox; part of the answer has come.
  [[nodiscard]] virtual bool has_sent() const = 0;
  [[nodiscard]] virtual bool has_received() const = 0;
  // It had carried an exchange before: that it breaks says nothing about the sandbox.
  [[nodiscard]] virtual bool was_kept() const = 0;

  // Gives the connection, or the stream, back. `clean`: the exchange was in order from the leg's user's point of view.
  // Payload that was read stays until forget().
  virtual void release(bool clean) = 0;
  virtual void forget() = 0;

 protected:
  ~SandboxLeg() = default;
};

}  // namespace dirigent::roles
