// SPDX-License-Identifier: MIT
#include "sandbox/cell/executor_call.h"

#include <algorithm>

namespace dirigent::sandbox::cell {

namespace {

// gRPC's frame: a byte that says whether the message is compressed, its size in four bytes, the message.
constexpr std::size_t kFrameHead = 5;

// Protocol buffers' wire types.
enum Wire : unsigned { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

std::optional<std::uint64_t> take_varint(std::string_view& in) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (in.empty()) return std::nullopt;
    const auto byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

bool skip(std::string_view& in, std::uint64_t count) {
  if (count > in.size()) return false;
  in.remove_prefix(count);
  return true;
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, unsigned field, Wire wire) { put_varint(out, field << 3 | wire); }

std::string hexadecimal(std::size_t number) {
  std::string text;
  do text.push_back("0123456789abcdef"[number % 16]);
  while ((number /= 16) > 0);
  std::reverse(text.begin(), text.end());
  return text;
}

std::string answer(std::string_view body, unsigned status, bool closes) {
  std::string out = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n";
  if (closes) out += "Connection: close\r\n";
  out += "\r\n";
  if (!body.empty()) (((out += hexadecimal(body.size())) += "\r\n") += body) += "\r\n";
  return out + "0\r\ngrpc-status: " + std::to_string(status) + "\r\n\r\n";
}

}  // namespace

std::optional<Execute> read_execute(std::string_view body) {
  if (body.size() < kFrameHead || body[0] != 0) return std::nullopt;
  std::uint64_t size = 0;
  for (std::size_t i = 1; i < kFrameHead; ++i) size = size << 8 | static_cast<unsigned char>(body[i]);
  body.remove_prefix(kFrameHead);
  if (size != body.size()) return std::nullopt;
  Execute call;
  while (!body.empty()) {
    const auto key = take_varint(body);
    if (!key) return std::nullopt;
    switch (*key & 7) {
      case Wire::varint: {
        const auto value = take_varint(body);
        if (!value) return std::nullopt;
        if (*key >> 3 == 2) call.run_ms = *value;
        if (*key >> 3 == 3) call.memory_mib = *value;
        break;
      }
      case Wire::bytes: {
        const auto length = take_varint(body);
        if (!length || !skip(body, *length)) return std::nullopt;
        break;
      }
      case Wire::fixed64:
        if (!skip(body, 8)) return std::nullopt;
        break;
      case Wire::fixed32:
        if (!skip(body, 4)) return std::nullopt;
        break;
      default: return std::nullopt;
    }
  }
  return call;
}

std::string execute_reply(std::string_view name, std::uint64_t ran_us, std::uint64_t memory_mib, bool closes) {
  std::string message;
  put_key(message, 1, Wire::bytes);
  put_varint(message, name.size());
  message += name;
  put_key(message, 2, Wire::varint);
  put_varint(message, ran_us);
  put_key(message, 3, Wire::varint);
  put_varint(message, memory_mib * 1024);
  std::string frame(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) frame.push_back(static_cast<char>(message.size() >> shift & 0xff));
  return answer(frame + message, 0, closes);
}

std::string execute_refusal(bool closes) { return answer({}, 3, closes); }

}  // namespace dirigent::sandbox::cell
