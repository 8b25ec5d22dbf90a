// SPDX-License-Identifier: MIT
#include "http2_frames.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>

namespace dirigent::fuzz {

namespace {

constexpr std::size_t kFrameHead = 9;
constexpr std::size_t kPayloadMax = 16'384;

std::string number(std::uint32_t value, int bytes) {
  std::string text;
  for (int i = bytes; i-- > 0;) text.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return text;
}
std::uint32_t read_number(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

// Header compression of one direction.
class Inflater {
 public:
  Inflater() { nghttp2_hd_inflate_new(&inflater_); }
  ~Inflater() { nghttp2_hd_inflate_del(inflater_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  std::optional<FieldList> read(std::string_view block) {
    FieldList fields;
    const auto* at = reinterpret_cast<const std::uint8_t*>(block.data());
    std::size_t left = block.size();
    for (;;) {
      nghttp2_nv field;
      int flags = 0;
      const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &field, &flags, at, left, 1);
      if (used < 0) return std::nullopt;
      at += used;
      left -= static_cast<std::size_t>(used);
      if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0) {
        fields.emplace_back(std::string(reinterpret_cast<char*>(field.name), field.namelen),
                            std::string(reinterpret_cast<char*>(field.value), field.valuelen));
      }
      if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) break;
      if (used == 0 && left == 0) return std::nullopt;
    }
    nghttp2_hd_inflate_end_headers(inflater_);
    return fields;
  }

 private:
  nghttp2_hd_inflater* inflater_ = nullptr;
};

// Without padding and priority; nullopt when they do not fit.
std::optional<std::string_view> content_of(const Frame& frame) {
  std::string_view content = frame.payload;
  std::size_t padding = 0;
  if ((frame.flags & kPadded) != 0) {
    if (content.empty()) return std::nullopt;
    padding = static_cast<unsigned char>(content.front());
    content.remove_prefix(1);
  }
  if (frame.type == kHeaders && (frame.flags & kWithPriority) != 0) {
    if (content.size() < 5) return std::nullopt;
    content.remove_prefix(5);
  }
  if (padding > content.size()) return std::nullopt;
  content.remove_suffix(padding);
  return content;
}

// The DATA frame that begins `bytes` and does not end in them, with what is there of its content; nullopt when it is
// none, or too large to be taken.
std::optional<Frame> cut_data_frame(std::string_view bytes) {
  if (bytes.size() < kFrameHead) return std::nullopt;
  const std::size_t size = read_number(bytes.substr(0, 3));
  Frame frame{static_cast<std::uint8_t>(bytes[3]), static_cast<std::uint8_t>(bytes[4]),
              read_number(bytes.substr(5, 4)) & 0x7fffffff, {}};
  if (frame.type != kData || size > kPayloadMax) return std::nullopt;
  bytes.remove_prefix(kFrameHead);
  std::size_t content = size;
  if ((frame.flags & kPadded) != 0) {
    if (bytes.empty()) return std::nullopt;
    const std::size_t padding = static_cast<unsigned char>(bytes.front());
    if (padding + 1 > size) return std::nullopt;
    bytes.remove_prefix(1);
    content = size - 1 - padding;
  }
  frame.payload = bytes.substr(0, content);
  return frame;
}

void take_fields(ReferenceMessage& message, const FieldList& fields) {
  std::string cookie;
  for (const auto& [name, value] : fields) {
    if (name == ":method") {
      message.method = value;
    } else if (name == ":path") {
      message.target = value;
    } else if (name == ":authority") {
      message.headers.emplace_back("host", value);
    } else if (name == "cookie") {
      cookie += (cookie.empty() ? "" : "; ") + value;
    } else {
      message.headers.emplace_back(name, value);
    }
  }
  if (!cookie.empty()) message.headers.emplace_back("cookie", cookie);
}

Frame random_frame(Rng& rng) {
  const std::uint32_t stream = static_cast<std::uint32_t>(rng.below(8));
  switch (rng.below(12)) {
    case 0: return {kPing, static_cast<std::uint8_t>(rng.below(2)), 0, "12345678"};
    case 1:
      return {kSettings, 0, 0,
              number(static_cast<std::uint32_t>(rng.below(9)), 2) + number(static_cast<std::uint32_t>(rng()), 4)};
    case 2: return {kSettings, 1, 0, ""};
    case 3: return {kWindow, 0, stream, number(static_cast<std::uint32_t>(rng.below(3)) * 0x3fffffff, 4)};
    case 4: return {kReset, 0, stream, number(static_cast<std::uint32_t>(rng.below(14)), 4)};
    case 5: return {kGoaway, 0, 0, number(stream, 4) + number(0, 4)};
    case 6: return {kPriority, 0, stream, number(static_cast<std::uint32_t>(rng.below(8)), 4) + "\x10"};
    case 7: return {kContinuation, kEndHeaders, stream, header_block({{"x-more", "1"}})};
    case 8: return {kPushPromise, kEndHeaders, stream, number(2, 4) + header_block({{":method", "GET"}})};
    case 9: return {kData, static_cast<std::uint8_t>(rng.below(2)), stream, "data"};
    case 10: return {kHeaders, kEndHeaders | kEndStream, stream, header_block({{"x-trail", "t"}})};
    default:
      return {static_cast<std::uint8_t>(rng.below(256)), static_cast<std::uint8_t>(rng.below(256)), stream, "??"};
  }
}

constexpr std::pair<std::string_view, std::string_view> kNastyFields[] = {{":path", "/other"},
                                                                          {":method", "POST"},
                                                                          {":authority", "g"},
                                                                          {":scheme", "https"},
                                                                          {":status", "200"},
                                                                          {":protocol", "websocket"},
                                                                          {"host", "f"},
                                                                          {"host", "g"},
                                                                          {"connection", "close"},
                                                                          {"transfer-encoding", "chunked"},
                                                                          {"upgrade", "h2c"},
                                                                          {"te", "gzip"},
                                                                          {"te", "trailers"},
                                                                          {"content-length", "4"},
                                                                          {"content-length", "4000"},
                                                                          {"content-length", "0"},
                                                                          {"X-Upper", "1"},
                                                                          {"x y", "1"},
                                                                          {"", "1"},
                                                                          {"x-empty", ""},
                                                                          {"x-split", "a\r\nx-injected: 1"},
                                                                          {"x-lf", "a\nb"},
                                                                          {"x-nul", std::string_view("a\0b", 3)},
                                                                          {"x-blank", " a "},
                                                                          {"x\r\ny", "1"},
                                                                          {"x:y", "1"},
                                                                          {":path", "/a b"},
                                                                          {":path", "/a\r\nHost: g"},
                                                                          {":path", ""},
                                                                          {":path", "*"},
                                                                          {":method", "GET /x HTTP/1.1\r\nx:"},
                                                                          {":authority", "f\r\nx: y"},
                                                                          {"x-forwarded-for", "9.9.9.9"},
                                                                          {"x-dirigent-reason", "x"},
                                                                          {"x-call-id", "c"},
                                                                          {"x_real_ip", "1"},
                                                                          {"cookie", "a=b"},
                                                                          {"expect", "100-continue"}};

void mutate_fields(Frame& frame, Rng& rng) {
  const auto& [name, value] = kNastyFields[rng.below(std::size(kNastyFields))];
  const std::string field = header_block({{std::string(name), std::string(value)}});
  // Behind the others, or in front, where pseudo fields belong.
  frame.payload = rng.below(2) == 0 ? frame.payload + field : field + frame.payload;
}

}  // namespace

std::string to_bytes(const Frame& frame) {
  std::string bytes = number(static_cast<std::uint32_t>(frame.payload.size()), 3);
  bytes.push_back(static_cast<char>(frame.type));
  bytes.push_back(static_cast<char>(frame.flags));
  return bytes + number(frame.stream, 4) + frame.payload;
}

std::vector<Frame> frames_in(std::string_view bytes, std::string_view* rest) {
  std::vector<Frame> frames;
  while (bytes.size() >= kFrameHead) {
    const std::size_t size = read_number(bytes.substr(0, 3));
    if (bytes.size() < kFrameHead + size) break;
    frames.push_back({static_cast<std::uint8_t>(bytes[3]), static_cast<std::uint8_t>(bytes[4]),
                      read_number(bytes.substr(5, 4)) & 0x7fffffff, std::string(bytes.substr(kFrameHead, size))});
    bytes.remove_prefix(kFrameHead + size);
  }
  if (rest != nullptr) *rest = bytes;
  return frames;
}

std::string header_block(const FieldList& fields) {
  std::string block;
  for (const auto& [name, value] : fields) {
    block.push_back('\0');  // literal, not indexed, new name
    for (const std::string* text : {&name, &value}) {
      block.push_back(static_cast<char>(std::min<std::size_t>(text->size(), 126)));
      block += text->substr(0, 126);
    }
  }
  return block;
}

std::string connection_of(const std::vector<std::pair<FieldList, std::string>>& requests) {
  std::string bytes(kClientPreface);
  bytes += to_bytes({kSettings, 0, 0, ""});
  std::uint32_t stream = 1;
  for (const auto& [fields, body] : requests) {
    bytes += to_bytes({kHeaders, static_cast<std::uint8_t>(kEndHeaders | (body.empty() ? kEndStream : 0)), stream,
                       header_block(fields)});
    if (!body.empty()) bytes += to_bytes({kData, kEndStream, stream, body});
    stream += 2;
  }
  return bytes;
}

void mutate_http2(std::string& bytes, const std::string& other, Rng& rng) {
  const bool has_preface = bytes.starts_with(kClientPreface);
  std::string_view rest;
  std::vector<Frame> frames = frames_in(std::string_view(bytes).substr(has_preface ? kClientPreface.size() : 0), &rest);
  if (frames.empty() || rng.below(10) == 0) {  // blind
    if (bytes.empty()) bytes = kClientPreface;
    const std::size_t at = rng.below(bytes.size());
    bytes[at] = static_cast<char>(rng.below(256));
    return;
  }
  std::string tail(rest);
  Frame& frame = frames[rng.below(frames.size())];
  switch (rng.below(11)) {
    case 0: frames.erase(frames.begin() + (&frame - frames.data())); break;
    case 1:
      frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(rng.below(frames.size() + 1)), Frame(frame));
      break;
    case 2: std::swap(frame, frames[rng.below(frames.size())]); break;
    case 3: frame.flags = static_cast<std::uint8_t>(frame.flags ^ (1 << rng.below(6))); break;
    case 4: frame.stream = static_cast<std::uint32_t>(rng.below(9)); break;
    case 5: frame.type = static_cast<std::uint8_t>(rng.below(11)); break;
    case 6:
      frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(rng.below(frames.size() + 1)), random_frame(rng));
      break;
    case 7:
    case 8:
      if (frame.type == kHeaders || frame.type == kContinuation) {
        mutate_fields(frame, rng);
      } else if (!frame.payload.empty()) {
        frame.payload[rng.below(frame.payload.size())] = static_cast<char>(rng.below(256));
      }
      break;
    case 9: {  // a block in two frames
      if (frame.type != kHeaders || frame.payload.size() < 2) break;
      const std::size_t at = 1 + rng.below(frame.payload.size() - 1);
      Frame behind{kContinuation, static_cast<std::uint8_t>(frame.flags & kEndHeaders), frame.stream,
                   frame.payload.substr(at)};
      frame.payload.resize(at);
      frame.flags = static_cast<std::uint8_t>(frame.flags & ~kEndHeaders);
      frames.insert(frames.begin() + (&frame - frames.data()) + 1, behind);
      break;
    }
    case 10: {  // what another client sent, on other streams
      for (Frame& more : frames_in(std::string_view(other).substr(std::min(other.size(), kClientPreface.size())))) {
        if (more.stream != 0) more.stream += 8;
        frames.push_back(std::move(more));
      }
      break;
    }
  }
  std::string made(has_preface ? kClientPreface : "");
  for (const Frame& one : frames) made += to_bytes(one);
  bytes = made + tail;
}

std::vector<ReferenceMessage> requests_in_frames(std::string_view bytes) {
  if (!bytes.starts_with(kClientPreface)) return {};
  Inflater inflater;
  std::vector<ReferenceMessage> requests;
  std::map<std::uint32_t, std::size_t> streams;
  std::string block;
  std::uint32_t block_stream = 0;  // a block has begun and not ended
  bool block_ends_stream = false;
  std::string_view rest;
  for (const Frame& frame : frames_in(bytes.substr(kClientPreface.size()), &rest)) {
    if (frame.payload.size() > kPayloadMax ||
        (block_stream != 0 && (frame.type != kContinuation || frame.stream != block_stream)))
      return requests;
    const bool ends = (frame.flags & kEndStream) != 0;
    const auto content = content_of(frame);
    if (frame.type == kData) {
      const auto stream = streams.find(frame.stream);
      if (!content || stream == streams.end() || requests[stream->second].reading == Reading::whole) continue;
      requests[stream->second].body += *content;
      if (ends) requests[stream->second].reading = Reading::whole;
    } else if (frame.type == kHeaders || (frame.type == kContinuation && block_stream != 0)) {
      if (!content && frame.type == kHeaders) return requests;
      block += frame.type == kHeaders ? *content : std::string_view(frame.payload);
      if (frame.type == kHeaders) block_ends_stream = ends;
      block_stream = frame.stream;
      if ((frame.flags & kEndHeaders) == 0) continue;
      const auto fields = inflater.read(block);
      block.clear();
      block_stream = 0;
      if (!fields) return requests;
      const auto [stream, is_new] = streams.try_emplace(frame.stream, requests.size());
      if (is_new) {
        ReferenceMessage& request = requests.emplace_back();
        request.head_is_whole = true;
        take_fields(request, *fields);
      } else if (requests[stream->second].reading != Reading::whole) {
        for (const auto& [name, value] : *fields) requests[stream->second].trailers.push_back(name + ": " + value);
      }
      if (block_ends_stream) requests[stream->second].reading = Reading::whole;
    }
  }
  // The end of the bytes may cut a DATA frame: what is there of it counts, for a body is passed on as it comes.
  if (const auto cut = cut_data_frame(rest); cut && block_stream == 0) {
    const auto stream = streams.find(cut->stream);
    if (stream != streams.end() && requests[stream->second].reading != Reading::whole)
      requests[stream->second].body += cut->payload;
  }
  return requests;
}

const char* check_server_frames(std::string_view bytes) {
  Inflater inflater;
  std::string block;
  std::uint32_t block_stream = 0;
  bool is_first = true;
  for (const Frame& frame : frames_in(bytes)) {
    if (is_first && frame.type != kSettings) return "the first frame is no SETTINGS";
    is_first = false;
    if (frame.payload.size() > kPayloadMax) return "a frame above 16 KiB";
    if (frame.type > kContinuation) return "a frame of an unknown type";
    if (block_stream != 0 && (frame.type != kContinuation || frame.stream != block_stream))
      return "a header block is interrupted";
    if (frame.type != kHeaders && frame.type != kContinuation) continue;
    const auto content = content_of(frame);
    if (!content) return "a HEADERS frame that does not hold what it says";
    block += *content;
    block_stream = frame.stream;
    if ((frame.flags & kEndHeaders) == 0) continue;
    const auto fields = inflater.read(block);
    block.clear();
    block_stream = 0;
    if (!fields) return "a header block that cannot be read";
    for (const auto& [name, value] : *fields) {
      if (name == "connection" || name == "transfer-encoding" || name == "keep-alive" || name == "upgrade")
        return "a header of one hop";
      if (name != lower_case(name)) return "a name in capitals";
      if (value.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) return "a line end in a value";
    }
  }
  return nullptr;
}

}  // namespace dirigent::fuzz
