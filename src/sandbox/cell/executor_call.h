// SPDX-License-Identifier: MIT
//
// The one gRPC call that `builtin:trace` answers: what the Invitro loader makes with InvokeProtocol "grpc".
//
//   service faas.Executor { rpc Execute(FaasRequest) returns (FaasReply); }
//   FaasRequest { string message = 1; uint32 runtimeInMilliSec = 2; uint32 memoryInMebiBytes = 3; }
//   FaasReply   { string message = 1; uint32 durationInMicroSec = 2; uint32 memoryUsageInKb = 3; }
//
// A function speaks HTTP/1.1 here; the data plane makes gRPC of it (chunks and trailers).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dirigent::sandbox::cell {

struct Execute {
  std::uint64_t run_ms = 0;
  std::uint64_t memory_mib = 0;
};
// Of a body with one uncompressed message; nothing when it is anything else. Unknown fields are passed over.
std::optional<Execute> read_execute(std::string_view body);

// A whole HTTP/1.1 answer. `name` is the reply's message.
std::string execute_reply(std::string_view name, std::uint64_t ran_us, std::uint64_t memory_mib, bool closes);
// The answer to what read_execute() did not understand: status 3, INVALID_ARGUMENT.
std::string execute_refusal(bool closes);

}  // namespace dirigent::sandbox::cell
