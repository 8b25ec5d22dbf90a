// SPDX-License-Identifier: MIT
//
// The leg of an exchange to a sandbox that speaks HTTP/1.1: one connection, for the time of the exchange. Part of its
// Exchange. One thread.
#pragma once

#include <array>
#include <string_view>

#include "roles/data/block_pool.h"
#include "roles/data/body_decoder.h"
#include "roles/data/front.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class ProxyShard;

// "1f40\r\n"
std::string_view write_chunk_size(std::array<char, 20>& to, std::size_t size);
// A part of a chunked body, with its frame around it and the end of the body behind it when it is the last.
void queue_chunk(Output& output, std::array<char, 20>& size_text, std::string_view payload, bool last,
                 std::string_view trailers);

class Http1Leg final : public SandboxLeg {
 public:
  explicit Http1Leg(ProxyShard& shard) : shard_(shard) {}

  // `kept`: it carried an exchange before.
  void attach(UpstreamConnection* connection, bool kept);

  void send_head(char* head, std::size_t size, bool chunked) override;
  void send_body(std::string_view payload, bool last, std::string_view trailers) override;
  [[nodiscard]] bool pending() const override { return output_.pending(); }
  PolledSocket::Transfer flush() override;
  void end_half() override;
  void set_broken() override;

  BodyPart read_head() override;
  void begin_body(Framing framing, std::uint64_t length) override;
  // After begin_body(): trailers that the head's Connection lists go no further.
  void withhold_listed(const MessageHead& head) { body_.withhold_listed(head); }
  BodyPart read_body(bool buffered_only) override;
  [[nodiscard]] bool body_done() const override { return body_.done(); }
  [[nodiscard]] std::string_view body_trailers() const override { return body_.trailers(); }

  [[nodiscard]] bool has_sent() const override { return has_sent_; }
  [[nodiscard]] bool has_received() const override { return has_received_; }
  [[nodiscard]] bool was_kept() const override { return kept_; }

  void release(bool clean) override;
  void forget() override;

 private:
  BodyPart fill();

  ProxyShard& shard_;
  UpstreamConnection* connection_ = nullptr;
  Output output_;
  std::array<char, 20> chunk_size_{};
  BodyDecoder body_;
  HeadScanner scanner_;
  Block* input_ = nullptr;  // what the sandbox sent: [begin_, end_) is not used yet
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool kept_ = false;
  bool chunked_ = false;
  bool in_body_ = false;
  bool broken_ = false;
  bool has_sent_ = false;
  bool has_received_ = false;
};

}  // namespace dirigent::roles
