// SPDX-License-Identifier: MIT
//
// The front of an exchange whose client is this data plane: it brings a stored request and collects the answer, up to
// the size that is kept. So an asynchronous call takes the same way as any other: slots, queues, limits, cold starts,
// metrics, call log.
//
// Owned by its ProxyShard and used again. One thread.
#pragma once

#include <string>

#include "roles/data/async_record.h"
#include "roles/data/front.h"
#include "roles/data/peers.h"

namespace dirigent::roles {

class ProxyShard;

class StoredFront final : public ExchangeFront {
 public:
  explicit StoredFront(ProxyShard& shard) : shard_(shard) {}

  void begin(StoredRun run);
  // The end of the drain: the exchange ends with an answer that says so.
  void finish_now();
  [[nodiscard]] bool is_busy() const { return exchange_ != nullptr; }

 private:
  BodyPart read_body() override;
  [[nodiscard]] std::string_view body_trailers() const override { return {}; }
  bool send_continue() override { return true; }
  void send_interim(char*, std::size_t) override {}
  void send_head(char* head, TextWriter& writer, const AnswerFraming& framing) override;
  void send_body(std::string_view payload, bool last, std::string_view trailers) override;
  void drop_queued() override;
  [[nodiscard]] bool is_partly_sent() const override { return false; }
  PolledSocket::Transfer flush() override { return {}; }
  void parked() override {}
  [[nodiscard]] bool is_http10() const override { return false; }
  [[nodiscard]] bool is_stored() const override { return true; }
  void begin_tunnel() override {}
  void exchange_done() override;
  void exchange_cut() override;
  void exchange_left() override;

  void build_head(const StoredRun& run);
  void end(core::AttemptOutcome outcome);

  ProxyShard& shard_;
  Exchange* exchange_ = nullptr;
  CallId id_;
  std::string head_;
  std::string body_;
  std::uint32_t result_max_ = 0;
  ClientPeer peer_;
  Instant begun_{};
  StoredResult result_;
  core::AttemptOutcome outcome_;
};

}  // namespace dirigent::roles
