// SPDX-License-Identifier: MIT
//
// HTTP/2 frames for the fuzz target: written, mutated, and read again by hand. Only header compression is nghttp2's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/random.h"
#include "reference.h"

namespace dirigent::fuzz {

enum FrameType : std::uint8_t {
  kData,
  kHeaders,
  kPriority,
  kReset,
  kSettings,
  kPushPromise,
  kPing,
  kGoaway,
  kWindow,
  kContinuation
};
constexpr std::uint8_t kEndStream = 1;
constexpr std::uint8_t kEndHeaders = 4;
constexpr std::uint8_t kPadded = 8;
constexpr std::uint8_t kWithPriority = 32;

struct Frame {
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint32_t stream = 0;
  std::string payload;
};
std::string to_bytes(const Frame& frame);
// Whole frames; `rest` gets what is behind the last.
std::vector<Frame> frames_in(std::string_view bytes, std::string_view* rest = nullptr);

using FieldList = std::vector<std::pair<std::string, std::string>>;
// Literal fields, neither indexed nor compressed.
std::string header_block(const FieldList& fields);

constexpr std::string_view kClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// A connection that sends these requests, each with its body, one after another.
std::string connection_of(const std::vector<std::pair<FieldList, std::string>>& requests);

void mutate_http2(std::string& bytes, const std::string& other, Rng& rng);

// The requests that a client's bytes carry, as HTTP/1.1 would say them: those that ended are Reading::whole. Up to the
// first frame or header block that cannot be understood. Rules about what fields may be are left to whoever compares.
std::vector<ReferenceMessage> requests_in_frames(std::string_view bytes);
// What a server sent: nullptr, or what is wrong with it as a sequence of frames.
const char* check_server_frames(std::string_view bytes);

}  // namespace dirigent::fuzz
