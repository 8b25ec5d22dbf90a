// SPDX-License-Identifier: MIT
#include "roles/data/http1_leg.h"

#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

using Io = PolledSocket::Io;

std::string_view write_chunk_size(std::array<char, 20>& to, std::size_t size) {
  const auto result = std::to_chars(to.data(), to.data() + 16, size, 16);
  result.ptr[0] = '\r';
  result.ptr[1] = '\n';
  return {to.data(), static_cast<std::size_t>(result.ptr - to.data()) + 2};
}

void queue_chunk(Output& output, std::array<char, 20>& size_text, std::string_view payload, bool last,
                 std::string_view trailers) {
  const auto add = [&output](std::string_view text) { output.add(text.data(), text.size()); };
  if (!payload.empty()) {
    add(write_chunk_size(size_text, payload.size()));
    add(payload);
    add("\r\n");
  }
  if (last) {
    add("0\r\n");
    add(trailers);
    add("\r\n");
  }
}

void Http1Leg::attach(UpstreamConnection* connection, bool kept) {
  connection_ = connection;
  kept_ = kept;
  output_.clear();
  scanner_.reset();
  begin_ = end_ = 0;
  in_body_ = broken_ = has_sent_ = has_received_ = false;
}

// --- the request --------------------------------------------------------------------------------------------------

void Http1Leg::send_head(char* head, std::size_t size, bool chunked) {
  chunked_ = chunked;
  output_.add(head, size);
}

void Http1Leg::send_body(std::string_view payload, bool last, std::string_view trailers) {
  if (chunked_) {
    queue_chunk(output_, chunk_size_, payload, last, trailers);
  } else {
    output_.add(payload.data(), payload.size());
  }
}

PolledSocket::Transfer Http1Leg::flush() {
  const PolledSocket::Transfer transfer = connection_->send(output_);
  if (transfer.bytes > 0) has_sent_ = true;
  return transfer;
}

void Http1Leg::end_half() { ::shutdown(connection_->fd(), SHUT_WR); }

void Http1Leg::set_broken() {
  broken_ = true;
  output_.clear();
}

// --- the answer ---------------------------------------------------------------------------------------------------

// Reads once. ready: there is more.
BodyPart Http1Leg::fill() {
  if (!connection_->readable() && !broken_) return {};
  if (begin_ == end_) {
    begin_ = end_ = 0;
    const bool is_large = in_body_ && body_.expected() > BlockPool::kMedium;
    const std::size_t wanted = is_large ? BlockPool::kLarge : BlockPool::kMedium;
    if (input_ == nullptr || input_->capacity < wanted) {
      shard_.blocks().give(input_);
      input_ = shard_.blocks().take(wanted);
    }
  } else if (end_ == input_->capacity) {
    // Only a head that has not ended yet is kept while more is read.
    Block* larger = shard_.blocks().take(2 * input_->capacity);
    std::memcpy(larger->data(), input_->data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    shard_.blocks().give(input_);
    input_ = larger;
  }
  const PolledSocket::Transfer transfer = connection_->receive(input_->data() + end_, input_->capacity - end_);
  BodyPart part;
  switch (transfer.io) {
    case Io::done:
      end_ += transfer.bytes;
      has_received_ = true;
      part.state = BodyPart::State::ready;
      break;
    case Io::blocked:
      if (!broken_) break;
      part.state = BodyPart::State::failed;
      part.error = EPIPE;
      break;
    case Io::ended: part.state = BodyPart::State::ended; break;
    case Io::failed:
      part.state = BodyPart::State::failed;
      part.error = transfer.error;
      break;
  }
  return part;
}

BodyPart Http1Leg::read_head() {
  for (;;) {
    if (begin_ < end_) {
      const std::string_view bytes(input_->data() + begin_, end_ - begin_);
      const HeadScanner::Verdict verdict = scanner_.scan(bytes);
      const std::size_t size_max = shard_.response_limits().head_bytes_max;
      BodyPart part;
      part.state = BodyPart::State::bad;
      if (verdict == HeadScanner::Verdict::bad) {
        part.problem = scanner_.problem();
        return part;
      }
      const bool complete = verdict == HeadScanner::Verdict::complete;
      if (complete ? scanner_.head_size() > size_max : bytes.size() >= size_max) {
        part.problem = "its head is too large";
        return part;
      }
      if (complete) {
        part.state = BodyPart::State::ready;
        part.payload = bytes.substr(0, scanner_.head_size());
        begin_ += scanner_.head_size();
        scanner_.reset();
        return part;
      }
    }
    const BodyPart more = fill();
    if (more.state != BodyPart::State::ready) return more;
  }
}

void Http1Leg::begin_body(Framing framing, std::uint64_t length) {
  in_body_ = true;
  body_.begin(framing, length);
}

BodyPart Http1Leg::read_body(bool buffered_only) {
  BodyPart part;
  if (begin_ == end_) {
    if (buffered_only) return part;
    part = fill();
    // After a send that failed an end may be none: the send has taken the error of a reset away.
    if (part.state == BodyPart::State::ended && !broken_ && body_.end_of_input()) {
      part.state = BodyPart::State::ready;
      part.last = true;
      return part;
    }
    if (part.state != BodyPart::State::ready) return part;
  }
  char* data = input_->data() + begin_;
  const BodyDecoder::Step step = body_.decode(data, end_ - begin_);
  begin_ += step.consumed;
  part.state = body_.problem() == nullptr ? BodyPart::State::ready : BodyPart::State::bad;
  part.problem = body_.problem();
  part.payload = {data, step.produced};
  part.last = body_.done();
  return part;
}

// --- the end ------------------------------------------------------------------------------------------------------

void Http1Leg::release(bool clean) {
  if (connection_ == nullptr) return;
  // Bytes beyond the response's own framing belong to nobody: never to the next request.
  if (clean && begin_ == end_) {
    shard_.upstreams().keep(connection_, shard_.now());
  } else {
    shard_.upstreams().close(connection_);
  }
  connection_ = nullptr;
  output_.clear();
}

void Http1Leg::forget() {
  shard_.blocks().give(input_);
  input_ = nullptr;
  begin_ = end_ = 0;
}

}  // namespace dirigent::roles
