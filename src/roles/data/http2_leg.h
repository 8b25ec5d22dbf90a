// SPDX-License-Identifier: MIT
//
// The leg of an exchange to a sandbox that speaks HTTP/2 in clear text with prior knowledge: one stream of a connection
// that the exchanges of this shard with that sandbox share. Part of its Exchange. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/core/slots.h"
#include "roles/data/block_pool.h"
#include "roles/data/front.h"
#include "roles/data/http2_session.h"
#include "dirigent/base/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class Http2Upstream;

class Http2Leg final : public SandboxLeg, public Http2Stream {
 public:
  Http2Leg(ProxyShard& shard, UpstreamUser& user) : shard_(shard), user_(user) {}

  // Takes a stream of a connection that is there (if `kept_allowed`) or a new one. Errors: those of connecting.
  Status open(const core::SandboxSlots& sandbox, bool kept_allowed);

  void send_head(char* head, std::size_t size, bool chunked) override;
  void send_body(std::string_view payload, bool last, std::string_view trailers) override;
  [[nodiscard]] bool pending() const override { return output_pending(); }
  PolledSocket::Transfer flush() override;
  void end_half() override {}
  void set_broken() override;

  BodyPart read_head() override;
  void begin_body(Framing framing, std::uint64_t length) override;
  BodyPart read_body(bool buffered_only) override;
  [[nodiscard]] bool body_done() const override { return input_ended_ && input_.size() == lent_; }
  [[nodiscard]] std::string_view body_trailers() const override { return trailers_; }

  [[nodiscard]] bool has_sent() const override;
  [[nodiscard]] bool has_received() const override { return has_received_; }
  [[nodiscard]] bool was_kept() const override { return kept_ || refused_; }

  void release(bool clean) override;
  void forget() override;

 private:
  friend class Http2Upstream;
  void on_head(bool ended) override;
  void on_progress() override { user_.on_upstream_ready(); }
  void on_broken(std::uint32_t error_code) override;

  ProxyShard& shard_;
  UpstreamUser& user_;
  char* request_ = nullptr;         // the head, not handed to nghttp2 yet
  std::size_t request_size_ = 0;
  Block* head_ = nullptr;           // of the answer, not read yet
  std::size_t head_size_ = 0;
  const char* head_problem_ = nullptr;
  bool head_ready_ = false;
  bool kept_ = false;
  bool refused_ = false;            // the sandbox certainly did nothing with it
  bool has_received_ = false;
  bool answers_head_ = false;
  bool is_bodiless_ = false;
};

// The connections to sandboxes that speak HTTP/2: one per sandbox and shard, and more only while its streams are used
// up.
class Http2Upstream final : public Http2Session {
 public:
  explicit Http2Upstream(ProxyShard& shard);

 private:
  friend class Http2Leg;
  friend class Http2Upstreams;

  Http2Stream* on_new_stream(std::int32_t) override { return nullptr; }  // sandboxes do not push
  void build_head(bool ended, Http2Stream& stream) override;
  void on_goaway(std::int32_t last_stream_id) override;
  void on_dead() override;
  void on_flushed() override;
  static void on_timer(void* self, Instant now);
  [[nodiscard]] bool has_room() const { return is_alive() && !leaving_ && streams() < peer_streams_max_; }
  // A leg has given up its stream.
  void stream_ended();

  TimerNode timer_;
  SandboxId sandbox_;
  Instant quiet_since_{};
  bool leaving_ = false;            // the sandbox takes no more streams, or we want it closed
  bool has_carried_ = false;        // an answer has come: it is a connection in order
};

class Http2Upstreams {
 public:
  explicit Http2Upstreams(ProxyShard& shard) : shard_(shard) {}
  Http2Upstreams(const Http2Upstreams&) = delete;
  Http2Upstreams& operator=(const Http2Upstreams&) = delete;

  // A connection with room for a stream. `kept_allowed`: also one that is there. Errors: see UpstreamPool::dial.
  Result<Http2Upstream*> take(const core::SandboxSlots& sandbox, bool kept_allowed);
  void close_idle();
  // Connections closed in this batch of events may be used again.
  void after_batch();

 private:
  friend class Http2Upstream;
  ProxyShard& shard_;
  std::unordered_map<SandboxId, std::vector<Http2Upstream*>> sandboxes_;
  std::vector<std::unique_ptr<Http2Upstream>> all_;
  std::vector<Http2Upstream*> free_;
  std::vector<Http2Upstream*> closed_;
};

}  // namespace dirigent::roles
