// SPDX-License-Identifier: MIT
#include "roles/data/http2_callbacks.h"

#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "roles/data/http2_session.h"

using dirigent::roles::Http2Session;
using dirigent::roles::Http2Stream;

namespace {

Http2Session& session_of(void* user) { return *static_cast<Http2Session*>(user); }
Http2Stream* stream_of(nghttp2_session* session, std::int32_t id) {
  return static_cast<Http2Stream*>(nghttp2_session_get_stream_user_data(session, id));
}
std::string_view view(const std::uint8_t* bytes, std::size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

void* count(void* memory, void* user) {
  if (memory != nullptr) *static_cast<std::size_t*>(user) += ::malloc_usable_size(memory);
  return memory;
}
void* allocate(std::size_t size, void* user) { return count(std::malloc(size), user); }
void* allocate_zero(std::size_t items, std::size_t size, void* user) { return count(std::calloc(items, size), user); }
void release(void* memory, void* user) {
  *static_cast<std::size_t*>(user) -= ::malloc_usable_size(memory);
  std::free(memory);
}
void* reallocate(void* memory, std::size_t size, void* user) {
  const std::size_t before = ::malloc_usable_size(memory);
  void* moved = std::realloc(memory, size);
  if (moved != nullptr) *static_cast<std::size_t*>(user) += ::malloc_usable_size(moved) - before;
  return moved;
}

}  // namespace

nghttp2_mem Http2Callbacks::memory(std::size_t* counter) {
  return nghttp2_mem{counter, &allocate, &release, &allocate_zero, &reallocate};
}

// --- what has been received and sent --------------------------------------------------------------------------------

int Http2Callbacks::on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
  Http2Session& session = session_of(user);
  session.begin_block();
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  return session.on_new_stream(frame->hd.stream_id) != nullptr ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

int Http2Callbacks::on_header(nghttp2_session* raw, const nghttp2_frame* frame, const std::uint8_t* name,
                              std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                              void* user) {
  if (frame->hd.type == NGHTTP2_HEADERS && stream_of(raw, frame->hd.stream_id) != nullptr) {
    session_of(user).add_to_block(view(name, name_size), view(value, value_size));
  }
  return 0;
}

// nghttp2 would leave such a field out, and let the rest pass.
int Http2Callbacks::on_invalid_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t*, std::size_t,
                             const std::uint8_t*, std::size_t, std::uint8_t, void*) {
  return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

int Http2Callbacks::on_frame_recv(nghttp2_session* raw, const nghttp2_frame* frame, void* user) {
  Http2Session& session = session_of(user);
  const bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
      if (Http2Stream* stream = stream_of(raw, frame->hd.stream_id)) session.end_block(*stream, ended);
      break;
    case NGHTTP2_DATA:
      if (frame->hd.length > 0) {
        session.count_data_frame();
      } else if (!ended) {
        session.count_cheap_frame();
      }
      if (Http2Stream* stream = stream_of(raw, frame->hd.stream_id)) {
        if (ended) stream->input_ended_ = true;
        stream->on_progress();
      }
      break;
    case NGHTTP2_SETTINGS:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        session.peer_streams_max_ = nghttp2_session_get_remote_settings(raw, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
        session.count_cheap_frame();
      }
      break;
    case NGHTTP2_PING:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) {
        session.on_ping_ack();
      } else {
        session.count_cheap_frame();
      }
      break;
    case NGHTTP2_PRIORITY: session.count_cheap_frame(); break;
    case NGHTTP2_RST_STREAM: session.count_cheap_frame(); break;
    case NGHTTP2_GOAWAY: session.on_goaway(frame->goaway.last_stream_id); break;
    default: break;
  }
  return 0;
}

int Http2Callbacks::on_data_chunk(nghttp2_session* raw, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                                  std::size_t size, void* user) {
  session_of(user).take_payload(stream_of(raw, id), id, view(data, size));
  return 0;
}

int Http2Callbacks::on_stream_close(nghttp2_session* raw, std::int32_t id, std::uint32_t error_code, void* user) {
  Http2Stream* stream = stream_of(raw, id);
  if (stream == nullptr) return 0;
  stream->closed_ = true;
  stream->error_ = ECONNRESET;
  if (stream->is_complete()) {
    session_of(user).note(*stream);
  } else {
    stream->on_broken(error_code);
  }
  return 0;
}

int Http2Callbacks::on_frame_send(nghttp2_session* raw, const nghttp2_frame* frame, void* user) {
  if (frame->hd.type == NGHTTP2_DATA) session_of(user).count_data_frame();
  if (frame->hd.type != NGHTTP2_HEADERS) return 0;
  Http2Stream* stream = stream_of(raw, frame->hd.stream_id);
  if (stream == nullptr || !stream->submitted_ || stream->head_sent_) return 0;
  stream->head_sent_ = true;
  stream->taken_ += frame->hd.length;
  if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) stream->last_ = stream->end_sent_ = true;
  session_of(user).note(*stream);
  return 0;
}

ssize_t Http2Callbacks::read_output(nghttp2_session* raw, std::int32_t id, std::uint8_t* to, std::size_t capacity,
                           std::uint32_t* flags, nghttp2_data_source*, void* user) {
  Http2Stream* stream = stream_of(raw, id);
  if (stream == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // given up: its RST_STREAM is on the way
  const std::size_t part = std::min(capacity, stream->output_.size());
  if (part > 0) std::memcpy(to, stream->output_.data(), part);
  stream->output_.remove_prefix(part);
  stream->taken_ += part;
  if (!stream->output_.empty()) return static_cast<ssize_t>(part);
  if (stream->last_) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (!stream->output_trailers_.empty() && session_of(user).submit_trailers(*stream))
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    stream->end_sent_ = true;
  } else if (part == 0) {
    stream->deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  session_of(user).note(*stream);
  return static_cast<ssize_t>(part);
}

// --- what a session is made with ------------------------------------------------------------------------------------

const nghttp2_session_callbacks* Http2Callbacks::table() {
  static nghttp2_session_callbacks* const made = [] {
    nghttp2_session_callbacks* set = nullptr;
    nghttp2_session_callbacks_new(&set);
    nghttp2_session_callbacks_set_on_begin_headers_callback(set, &on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(set, &on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(set, &on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(set, &on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(set, &on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(set, &on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(set, &on_frame_send);
    return set;
  }();
  return made;
}

const nghttp2_option* Http2Callbacks::options() {
  static nghttp2_option* const made = [] {
    nghttp2_option* set = nullptr;
    nghttp2_option_new(&set);
    nghttp2_option_set_no_auto_window_update(set, 1);
    nghttp2_option_set_no_closed_streams(set, 1);
    nghttp2_option_set_max_outbound_ack(set, 1'000'000);            // count_cheap_frame() can say why
    nghttp2_option_set_stream_reset_rate_limit(set, 1'000'000, 1'000'000);  // likewise
    return set;
  }();
  return made;
}
