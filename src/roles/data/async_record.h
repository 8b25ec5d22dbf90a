// SPDX-License-Identifier: MIT
//
// The bytes that a store keeps of a request and of a result, and what travels between the shards and the desk of
// asynchronous calls. Values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/core/async_call.h"
#include "dirigent/core/dispatcher.h"
#include "dirigent/model/call_id.h"
#include "dirigent/model/reason.h"

namespace dirigent::roles {

// A request as it is kept: its head as HTTP/1.1 text without framing, hop-by-hop headers and the empty line; what is
// known of the client; and its body.
struct StoredRequest {
  std::string head;
  std::string body;
  bool has_body = false;        // it had a length or chunks, if only of nothing
  std::string peer;             // the client's address
  bool peer_trusted = false;
  std::string callback_url;     // "" = none

  friend bool operator==(const StoredRequest&, const StoredRequest&) = default;
};
std::string encode(const StoredRequest& request);
Result<StoredRequest> decode_stored_request(std::string_view bytes);

// An answer as it is kept: header lines with CR LF each, without framing.
struct StoredResult {
  std::uint16_t status = 0;
  std::string headers;
  std::string body;

  friend bool operator==(const StoredResult&, const StoredResult&) = default;
};
std::string encode(const StoredResult& result);
Result<StoredResult> decode_stored_result(std::string_view bytes);

// A request that a shard hands in.
struct AsyncSubmission {
  FunctionName function;
  StoredRequest request;
  std::string idempotency_key;
};

// What the client is to be told.
struct AsyncReply {
  int status = 202;
  std::string headers;                // lines with CR LF
  std::string body;
  Reason reason = Reason::none;       // not none: a problem document is written of this and `detail`
  std::string detail;
  Duration retry_after{};
  std::string call_id;                // "" = the exchange's own
};

// An attempt for a shard to make.
struct StoredRun {
  CallId id;
  std::uint32_t attempt = 1;
  std::uint32_t result_max = 0;       // bytes of the body that are kept
  StoredRequest request;
};

enum class AsyncQuestion { result, cancel };

// The desk as shards see it. Any thread; answers come through ProxyShard::async_replied().
class AsyncDoor {
 public:
  struct Limits {
    std::uint64_t body_max = 0;
    bool takes_everything = false;    // the original's mode: every request is asynchronous
  };
  virtual void submit(std::uint32_t shard, core::RequestToken token, AsyncSubmission submission) = 0;
  virtual void ask(std::uint32_t shard, core::RequestToken token, AsyncQuestion question, CallId id) = 0;
  virtual void ended(CallId id, core::AttemptOutcome outcome, StoredResult result) = 0;
  [[nodiscard]] virtual const Limits& limits() const = 0;

 protected:
  ~AsyncDoor() = default;
};

}  // namespace dirigent::roles
