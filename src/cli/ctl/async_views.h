// SPDX-License-Identifier: MIT
//
// What data planes say of asynchronous calls (their admin port's /v1/async and /v1/dlq), as plain values and as text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::cli {

struct AsyncCallRow {
  std::string id, function, state, end, reason, callback;
  int status = 0;
  int attempts = 0, attempts_max = 0;
  int callback_status = 0, callback_attempts = 0;
  double age_ms = 0, due_in_ms = 0, waited_ms = 0, ran_ms = 0;
  std::int64_t accepted_at_us = 0;
  std::int64_t request_bytes = 0, result_bytes = 0;
  bool truncated = false;
  std::string request_head, request_body, request_problem, callback_url, answer;  // of a dead letter
  std::string json;  // as it came
};

struct AsyncStoreRow {
  std::string store, directory, problem;
  bool adopted = false;
  std::uint64_t calls = 0, disk_bytes = 0, live_bytes = 0, damaged_bytes = 0;
  std::vector<std::string> findings;
};

struct AsyncAnswer {
  std::vector<AsyncCallRow> calls;
  std::vector<AsyncStoreRow> stores;
};

// Errors: corrupt, when the text is not what the port answers.
Result<AsyncAnswer> read_async(std::string_view body);
Result<AsyncCallRow> read_async_call(std::string_view body);
struct ChangedAnswer {
  std::uint64_t changed = 0;
  int attempts_max = 0;
};
Result<ChangedAnswer> read_changed(std::string_view body);

// "500 from fn", "sandbox-reset", "-": how the last attempt ended.
std::string last_text(const AsyncCallRow& call);
// "done  200  attempt 1 of 3  waited 0.2 ms  ran 0.4 ms  callback delivered (204)"
std::string call_line(const AsyncCallRow& call);

}  // namespace dirigent::cli
