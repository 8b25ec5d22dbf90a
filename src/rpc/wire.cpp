// SPDX-License-Identifier: MIT
#include "rpc/wire.h"

#include <asio/buffer.hpp>
#include <asio/post.hpp>
#include <capnp/rpc.capnp.h>
#include <fmt/core.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace dirigent::rpc {

namespace {

// Below this, messages of the same turn share a write; above it, the peer had better begin with its work. Measured with
// 64-byte calls at depth 32: 1-2 KiB is best, 16 KiB makes the two sides work in turns and halves the rate.
constexpr std::size_t kCorkBytes = 1536;
// A peer that does not read is not read from either. Three unanswered batches of at most 4 MiB each and the answers to the
// peer's three stay below, so two honest peers never wait for each other.
constexpr std::size_t kUnsentPause = 16 * 1024 * 1024;
// A message of the size limit may wait on top of that; more is a peer that takes our memory.
constexpr std::size_t kUnsentMax = kUnsentPause + 2 * kMessageBytesMax;
// One connection may take so many full reads before the others get their turn.
constexpr int kReadsPerTurn = 16;
constexpr std::size_t kKeptBytes = 16 * 1024;

// A message in memory of its own, word-aligned as the reader needs it.
class OwnedMessage final : public capnp::FlatArrayMessageReader {
 public:
  OwnedMessage(kj::Array<capnp::word> words, capnp::ReaderOptions limits)
      : capnp::FlatArrayMessageReader(words, limits), words_(kj::mv(words)) {}

 private:
  kj::Array<capnp::word> words_;
};

std::uint32_t little_endian(const char* bytes) {
  const auto* b = reinterpret_cast<const unsigned char*>(bytes);
  return static_cast<std::uint32_t>(b[0]) | static_cast<std::uint32_t>(b[1]) << 8 | static_cast<std::uint32_t>(b[2]) << 16 |
         static_cast<std::uint32_t>(b[3]) << 24;
}

std::string system_words(int error_number) { return std::generic_category().message(error_number); }

}  // namespace

// What the RPC system holds.
class Wire::Stream final : public capnp::MessageStream {
 public:
  explicit Stream(std::shared_ptr<Wire> wire) : wire_(std::move(wire)) {}

  kj::Promise<Incoming> tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd>, capnp::ReaderOptions options,
                                       kj::ArrayPtr<capnp::word>) override {
    return wire_->read(options);
  }
  kj::Promise<void> writeMessage(kj::ArrayPtr<const int>, kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override {
    return wire_->write(segments);
  }
  kj::Promise<void> writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override {
    kj::Promise<void> last = kj::READY_NOW;
    for (auto& message : messages) last = wire_->write(message);
    return last;
  }
  kj::Maybe<int> getSendBufferSize() override { return nullptr; }
  kj::Promise<void> end() override { return wire_->finish_writing(); }

 private:
  std::shared_ptr<Wire> wire_;
};

Wire::Wire(KjLoop& kj, Socket socket, std::string peer, std::function<void(std::string why)> ended)
    : kj_(kj), socket_(std::move(socket)), peer_(std::move(peer)), on_ended_(std::move(ended)), last_received_(io::Loop::now()), last_sent_(last_received_) {
  answer_timer_.owner = this;
  answer_timer_.fire = [](void* owner, Instant) {
    if (auto self = static_cast<Wire*>(owner)->weak_from_this().lock(); self && self->answer_waits_) self->post_flush();
  };
}

Wire::~Wire() { kj_.forget(answer_timer_); }

kj::Own<capnp::MessageStream> Wire::stream() { return kj::heap<Stream>(shared_from_this()); }

void Wire::close() {
  on_ended_ = nullptr;
  if (!ended_ && unsent() > 0) flush();
  ended_ = true;
  if (why_.empty()) why_ = "the connection was closed here";
  std::error_code ignored;
  socket_.close(ignored);
  messages_.clear();
  reader_ = nullptr;
}

void Wire::fail(std::string why) {
  if (ended_) return;
  ended_ = true;
  why_ = std::move(why);
  std::error_code ignored;
  socket_.close(ignored);
  // Calls that arrived whole are still handed on, then the RPC system sees the end of the stream.
  deliver();
  asio::post(kj_.context(), [self = shared_from_this()] {
    self->kj_.pump();
    if (auto ended = std::exchange(self->on_ended_, nullptr)) ended(self->why_);
  });
}

// --- reading ------------------------------------------------------------------------------------------------------

kj::Promise<Wire::Incoming> Wire::read(capnp::ReaderOptions options) {
  options_ = options;
  if (!messages_.empty()) {
    auto message = kj::mv(messages_.front());
    messages_.pop_front();
    return Incoming(capnp::MessageReaderAndFds{kj::mv(message), nullptr});
  }
  if (ended_) return Incoming(nullptr);
  auto pair = kj::newPromiseAndFulfiller<Incoming>();
  reader_ = kj::mv(pair.fulfiller);
  wait_readable();
  return kj::mv(pair.promise);
}

// A read, not a wait for readiness: asio would arm epoll anew for each wait.
void Wire::wait_readable() {
  if (reading_ || ended_ || unsent() > kUnsentPause) return;
  reading_ = true;
  socket_.async_receive(asio::buffer(first_bytes_), [self = shared_from_this()](std::error_code error, std::size_t received) {
    self->reading_ = false;
    if (self->ended_ || error == asio::error::operation_aborted) return;
    if (error == asio::error::eof) {
      self->fail(self->partial_.empty() ? kPeerClosed : "the peer closed the connection in the middle of a message");
    } else if (error) {
      self->fail("the connection broke: " + error.message());
    } else {
      self->on_readable(received);
    }
    self->kj_.pump();
  });
}

void Wire::on_readable(std::size_t received) {
  last_received_ = io::Loop::now();
  take(first_bytes_.data(), received);
  std::vector<char>& scratch = kj_.scratch();
  bool is_more_likely = received == first_bytes_.size();
  for (int reads = 0; is_more_likely && !ended_ && reads < kReadsPerTurn; ++reads) {
    const ssize_t size = ::recv(socket_.native_handle(), scratch.data(), scratch.size(), MSG_DONTWAIT);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      fail("the connection broke: " + system_words(errno));
      return;
    }
    if (size == 0) {
      fail(partial_.empty() ? kPeerClosed : "the peer closed the connection in the middle of a message");
      return;
    }
    take(scratch.data(), static_cast<std::size_t>(size));
    is_more_likely = static_cast<std::size_t>(size) == scratch.size() && messages_.empty();
  }
  if (ended_) return;
  if (messages_.empty()) {
    wait_readable();
  } else {
    deliver();
  }
}

void Wire::take(const char* bytes, std::size_t size) {
  if (partial_.empty()) {
    const std::size_t used = parse(bytes, size);
    if (!ended_) partial_.assign(bytes + used, bytes + size);
  } else {
    partial_.insert(partial_.end(), bytes, bytes + size);
    const std::size_t used = parse(partial_.data(), partial_.size());
    if (!ended_) partial_.erase(partial_.begin(), partial_.begin() + static_cast<std::ptrdiff_t>(used));
  }
  if (partial_.empty() && partial_.capacity() > kKeptBytes) partial_ = {};
}

// The frame: the number of segments less one, then each segment's size in words (all 32 bits, little-endian), padded to
// whole words; then the segments.
std::size_t Wire::parse(const char* bytes, std::size_t size) {
  std::size_t used = 0;
  while (size - used >= sizeof(capnp::word)) {
    const char* const frame = bytes + used;
    const std::uint64_t segments = std::uint64_t{little_endian(frame)} + 1;
    if (segments > kSegmentsMax) {
      fail(fmt::format("the peer does not speak Cap'n Proto RPC (its bytes read as a message of {} segments, at most {} are allowed)",
                       segments, kSegmentsMax));
      return used;
    }
    const std::size_t header = (segments / 2 + 1) * sizeof(capnp::word);
    if (size - used < header) break;
    std::uint64_t words = 0;
    for (std::uint64_t i = 0; i < segments; ++i) words += little_endian(frame + 4 + 4 * i);
    const std::uint64_t total = header + words * sizeof(capnp::word);
    if (total > kMessageBytesMax) {
      fail(fmt::format("the peer announced a message of {} bytes, at most {} are allowed", total, kMessageBytesMax));
      return used;
    }
    if (size - used < total) break;
    used += total;
    if (segments == 1 && words == 0) continue;  // a sign of life
    auto copy = kj::heapArray<capnp::word>(total / sizeof(capnp::word));
    std::memcpy(copy.begin(), frame, total);
    messages_.push_back(kj::heap<OwnedMessage>(kj::mv(copy), options_));
  }
  return used;
}

void Wire::deliver() {
  KJ_IF_MAYBE (waiting, reader_) {
    auto reader = kj::mv(*waiting);
    reader_ = nullptr;
    kj_.inside("receiving", [&] {
      if (messages_.empty()) {
        reader->fulfill(nullptr);
      } else {
        auto message = kj::mv(messages_.front());
        messages_.pop_front();
        reader->fulfill(Incoming(capnp::MessageReaderAndFds{kj::mv(message), nullptr}));
      }
    });
  }
}

// --- writing ------------------------------------------------------------------------------------------------------

kj::Promise<void> Wire::write(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  if (ended_ || write_ended_) return KJ_EXCEPTION(DISCONNECTED, "the connection has ended", why_);
  const std::size_t before = out_.size();
  std::size_t total = (segments.size() / 2 + 1) * sizeof(capnp::word);
  for (auto segment : segments) total += segment.asBytes().size();
  out_.resize(before + total);
  char* at = out_.data() + before;
  const auto put_number = [&at](std::size_t number) {
    for (int shift = 0; shift < 32; shift += 8) *at++ = static_cast<char>(number >> shift & 0xff);
  };
  put_number(segments.size() - 1);
  for (auto segment : segments) put_number(segment.size());
  if (segments.size() % 2 == 0) put_number(0);
  for (auto segment : segments) {
    std::memcpy(at, segment.begin(), segment.asBytes().size());
    at += segment.asBytes().size();
  }
  if (unsent() > kUnsentMax) {
    fail(fmt::format("the peer does not take what is sent to it: {} bytes wait", unsent()));
    return KJ_EXCEPTION(DISCONNECTED, "the peer does not read");
  }
  if (unsent() >= kCorkBytes) {
    flush();
    return kj::READY_NOW;
  }
  switch (urgency_of(segments)) {
    case Urgency::now: post_flush(); break;
    case Urgency::soon:
      if (std::exchange(answer_waits_, true)) post_flush();
      else kj_.wake(answer_timer_, io::Loop::now() + kAnswerPatience);
      break;
    case Urgency::with_the_next: break;
  }
  return kj::READY_NOW;
}

void Wire::ping() {
  if (ended_ || write_ended_) return;
  // Bytes that wait for the kernel are sign enough once they arrive.
  if (unsent() == 0) out_.insert(out_.end(), sizeof(capnp::word), '\0');
  post_flush();
}

// What this side writes is well-formed, and small where it can wait: looking at its root costs little.
Wire::Urgency Wire::urgency_of(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  if (segments.size() != 1) return Urgency::now;
  capnp::SegmentArrayMessageReader reader(segments);
  const auto message = reader.getRoot<capnp::rpc::Message>();
  switch (message.which()) {
    case capnp::rpc::Message::FINISH:
    case capnp::rpc::Message::RELEASE: return Urgency::with_the_next;
    case capnp::rpc::Message::RETURN: {
      const auto answer = message.getReturn();
      if (!answer.isResults()) return Urgency::now;
      const auto size = answer.getResults().getContent().targetSize();
      return size.wordCount == 0 && size.capCount == 0 ? Urgency::soon : Urgency::now;
    }
    default: return Urgency::now;
  }
}

kj::Promise<void> Wire::finish_writing() {
  write_ended_ = true;
  if (!ended_) {
    flush();
    std::error_code ignored;
    if (unsent() == 0) socket_.shutdown(Socket::shutdown_send, ignored);
  }
  return kj::READY_NOW;
}

void Wire::post_flush() {
  if (flush_posted_ || write_waiting_) return;
  flush_posted_ = true;
  asio::post(kj_.context(), [self = shared_from_this()] {
    self->flush_posted_ = false;
    self->flush();
  });
}

void Wire::flush() {
  if (ended_ || write_waiting_) return;
  answer_waits_ = false;
  const bool paused = unsent() > kUnsentPause;
  while (unsent() > 0) {
    const ssize_t sent = ::send(socket_.native_handle(), out_.data() + out_begin_, unsent(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      out_begin_ += static_cast<std::size_t>(sent);
      last_sent_ = io::Loop::now();
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      fail("the connection broke: " + system_words(errno));
      return;
    }
  }
  if (unsent() == 0) {
    out_begin_ = 0;
    out_.clear();
    if (out_.capacity() > kKeptBytes) out_ = {};
    std::error_code ignored;
    if (write_ended_) socket_.shutdown(Socket::shutdown_send, ignored);
  } else {
    // Moving the rest to the front costs little only while the rest is the smaller part.
    if (out_begin_ > out_.size() / 2) {
      out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(out_begin_));
      out_begin_ = 0;
    }
    write_waiting_ = true;
    socket_.async_wait(Socket::wait_write, [self = shared_from_this()](std::error_code error) {
      self->write_waiting_ = false;
      if (error || self->ended_) return;
      self->flush();
    });
  }
  if (paused && unsent() <= kUnsentPause && reader_ != nullptr) wait_readable();
}

}  // namespace dirigent::rpc
