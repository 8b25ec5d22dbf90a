// SPDX-License-Identifier: MIT
//
// Outbox: one direction of a session. Messages go in one by one and leave in order, in batches: all of one turn of the
// loop in one call, at most kUnansweredMax calls at a time, the rest waits and makes the next batch larger.
//
// It is shared between its session and its posted handlers. `failed` is called from a handler of its own.
#pragma once

#include <asio/post.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "dirigent/rpc/cluster.h"
#include "rpc/convert.h"
#include "rpc/kj_loop.h"

namespace dirigent::rpc {

// Two, so that the peer has work while the answer to the first travels, and one whose answer may wait for something to
// travel with (wire.h); more would only hide a slow peer.
inline constexpr int kUnansweredMax = 3;
// A batch stays far below the limit of a message, and the peer's loop is not held up by it for long.
inline constexpr std::size_t kBatchMessagesMax = 4096;
inline constexpr std::size_t kBatchBytesMax = std::size_t{4} << 20;
// A peer that is so far behind will not catch up: the session ends and starts anew from the peer's hello.
inline constexpr std::size_t kQueuedBytesMax = std::size_t{512} << 20;

// `Peer` is an interface of the schema with deliver(messages).
template <class Peer, class Message>
class Outbox : public std::enable_shared_from_this<Outbox<Peer, Message>>, private kj::TaskSet::ErrorHandler {
 public:
  struct Hooks {
    std::function<void(std::string why)> failed;
    std::function<void()> drained;  // nothing queued, nothing unanswered; may be empty
  };
  // `counters` must outlive the outbox's last call, or close().
  Outbox(KjLoop& kj, LinkCounters& counters, Hooks hooks) : kj_(kj), counters_(counters), hooks_(std::move(hooks)) {}
  ~Outbox() noexcept { close(); }

  // From now on messages go to `peer`. Inside KjLoop::inside() or an event.
  void open(typename Peer::Client peer) {
    peer_ = kj::mv(peer);
    calls_ = kj::heap<kj::TaskSet>(static_cast<kj::TaskSet::ErrorHandler&>(*this));
    post_flush();
  }
  [[nodiscard]] bool is_open() const { return peer_ != nullptr; }
  kj::Maybe<typename Peer::Client>& peer() { return peer_; }

  void push(Message message) {
    const std::size_t bytes = weight(message);
    queued_bytes_ += bytes;
    queue_.push_back({std::move(message), bytes});
    if (queued_bytes_ > kQueuedBytesMax) {
      fail(fmt::format("the peer is too slow: {} messages of {} bytes wait for it", queue_.size(), queued_bytes_));
    } else {
      post_flush();
    }
  }

  [[nodiscard]] bool empty() const { return queue_.empty() && unanswered_ == 0; }

  // Whoever waits for empty() says so: an answer that may wait at the peer's end comes at once with that to another call.
  void ask_for_answers() {
    if (peer_ == nullptr || unanswered_ != 1 || !queue_.empty()) return;
    kj_.inside("asking for answers", [this] { send(0, 0); });
    kj_.pump();
  }

  // Drops what is queued and unanswered; no hook is called any more. Before the session's connection is closed.
  void close() {
    hooks_ = {};
    queue_.clear();
    queued_bytes_ = 0;
    if (peer_ == nullptr && calls_.get() == nullptr) return;
    kj_.inside("closing an outbox", [this] {
      calls_ = nullptr;
      peer_ = nullptr;
    });
  }

 private:
  struct Queued {
    Message message;
    std::size_t bytes;
  };

  void post_flush() {
    if (flush_posted_ || peer_ == nullptr || queue_.empty() || unanswered_ >= kUnansweredMax) return;
    flush_posted_ = true;
    asio::post(kj_.context(), [weak = this->weak_from_this()] {
      auto self = weak.lock();
      if (!self) return;
      self->flush_posted_ = false;
      self->kj_.inside("sending messages", [&] { self->flush(); });
      self->kj_.pump();
    });
  }

  // Inside KJ.
  void flush() {
    while (peer_ != nullptr && !queue_.empty() && unanswered_ < kUnansweredMax) {
      std::size_t messages = 0;
      std::size_t bytes = 0;
      while (messages < queue_.size() && messages < kBatchMessagesMax) {
        if (messages > 0 && bytes + queue_[messages].bytes > kBatchBytesMax) break;
        bytes += queue_[messages++].bytes;
      }
      send(messages, bytes);
    }
  }

  // Inside KJ.
  void send(std::size_t messages, std::size_t bytes) {
    // 64 bytes for the call around the list.
    auto request = KJ_ASSERT_NONNULL(peer_).deliverRequest(capnp::MessageSize{(bytes + 64) / sizeof(capnp::word), 0});
    auto list = request.initMessages(static_cast<unsigned>(messages));
    for (std::size_t i = 0; i < messages; ++i) {
      write(list[static_cast<unsigned>(i)], queue_.front().message);
      queued_bytes_ -= queue_.front().bytes;
      queue_.pop_front();
    }
    ++unanswered_;
    counters_.messages_sent += messages;
    ++counters_.batches_sent;
    calls_->add(request.send().then([this, sent = io::Loop::now()](auto&&) {
      --unanswered_;
      counters_.answer_times.record(io::Loop::now() - sent);
      flush();
      if (empty() && hooks_.drained) asio::post(kj_.context(), hooks_.drained);
    }));
  }

  void taskFailed(kj::Exception&& exception) override { fail(words(exception)); }

  void fail(std::string why) {
    asio::post(kj_.context(), [weak = this->weak_from_this(), why = std::move(why)]() mutable {
      auto self = weak.lock();
      if (!self) return;
      if (auto failed = std::exchange(self->hooks_.failed, nullptr)) failed(std::move(why));
    });
  }

  KjLoop& kj_;
  LinkCounters& counters_;
  Hooks hooks_;
  std::deque<Queued> queue_;
  std::size_t queued_bytes_ = 0;
  kj::Maybe<typename Peer::Client> peer_;
  kj::Own<kj::TaskSet> calls_;
  int unanswered_ = 0;
  bool flush_posted_ = false;
};

}  // namespace dirigent::rpc
