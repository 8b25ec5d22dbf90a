// SPDX-License-Identifier: MIT
#include "roles/data/async_record.h"

#include <cstring>

namespace dirigent::roles {

namespace {

constexpr char kRequestVersion = 1;
constexpr char kResultVersion = 1;

void add_text(std::string& to, std::string_view text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  for (int i = 0; i < 4; ++i) to += static_cast<char>(size >> 8 * i & 0xff);
  to += text;
}

bool take_byte(std::string_view& from, std::uint8_t& value) {
  if (from.empty()) return false;
  value = static_cast<std::uint8_t>(from.front());
  from.remove_prefix(1);
  return true;
}

bool take_text(std::string_view& from, std::string& text) {
  if (from.size() < 4) return false;
  std::uint32_t size = 0;
  for (unsigned i = 0; i < 4; ++i) size |= std::uint32_t{static_cast<std::uint8_t>(from[i])} << 8 * i;
  if (size > from.size() - 4) return false;
  text = from.substr(4, size);
  from.remove_prefix(4 + std::size_t{size});
  return true;
}

}  // namespace

std::string encode(const StoredRequest& request) {
  std::string bytes;
  bytes.reserve(32 + request.head.size() + request.body.size() + request.peer.size() + request.callback_url.size());
  bytes += kRequestVersion;
  bytes += static_cast<char>((request.has_body ? 1 : 0) | (request.peer_trusted ? 2 : 0));
  add_text(bytes, request.head);
  add_text(bytes, request.peer);
  add_text(bytes, request.callback_url);
  add_text(bytes, request.body);
  return bytes;
}

Result<StoredRequest> decode_stored_request(std::string_view bytes) {
  StoredRequest request;
  std::uint8_t version = 0;
  std::uint8_t flags = 0;
  std::string_view rest = bytes;
  const bool ok = take_byte(rest, version) && version == kRequestVersion && take_byte(rest, flags) &&
                  take_text(rest, request.head) && take_text(rest, request.peer) && take_text(rest, request.callback_url) &&
                  take_text(rest, request.body);
  if (!ok) return failure(ErrorCode::corrupt, "{} bytes are no stored request", bytes.size());
  request.has_body = (flags & 1) != 0;
  request.peer_trusted = (flags & 2) != 0;
  return request;
}

std::string encode(const StoredResult& result) {
  std::string bytes;
  bytes.reserve(16 + result.headers.size() + result.body.size());
  bytes += kResultVersion;
  bytes += static_cast<char>(result.status & 0xff);
  bytes += static_cast<char>(result.status >> 8);
  add_text(bytes, result.headers);
  add_text(bytes, result.body);
  return bytes;
}

Result<StoredResult> decode_stored_result(std::string_view bytes) {
  StoredResult result;
  std::uint8_t version = 0;
  std::uint8_t low = 0;
  std::uint8_t high = 0;
  std::string_view rest = bytes;
  const bool ok = take_byte(rest, version) && version == kResultVersion && take_byte(rest, low) && take_byte(rest, high) &&
                  take_text(rest, result.headers) && take_text(rest, result.body);
  if (!ok) return failure(ErrorCode::corrupt, "{} bytes are no stored result", bytes.size());
  result.status = static_cast<std::uint16_t>(low | high << 8);
  return result;
}

}  // namespace dirigent::roles
