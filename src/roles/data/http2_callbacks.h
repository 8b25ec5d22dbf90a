// SPDX-License-Identifier: MIT
//
// What nghttp2 calls on behalf of an Http2Session. Nothing here calls nghttp2_session_mem_recv or _mem_send; submitting
// is allowed. For http2_session.cpp only.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>

struct Http2Callbacks {
  static const nghttp2_session_callbacks* table();
  static const nghttp2_option* options();
  // Payload that waits in a stream's output.
  static ssize_t read_output(nghttp2_session* raw, std::int32_t id, std::uint8_t* to, std::size_t capacity,
                             std::uint32_t* flags, nghttp2_data_source* source, void* user);
  // Memory, counted in the std::size_t that `counter` points to, for the ceiling of the data plane.
  static nghttp2_mem memory(std::size_t* counter);

 private:
  static int on_begin_headers(nghttp2_session* raw, const nghttp2_frame* frame, void* user);
  static int on_header(nghttp2_session* raw, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t flags,
                       void* user);
  static int on_invalid_header(nghttp2_session* raw, const nghttp2_frame* frame, const std::uint8_t* name,
                               std::size_t name_size, const std::uint8_t* value, std::size_t value_size,
                               std::uint8_t flags, void* user);
  static int on_frame_recv(nghttp2_session* raw, const nghttp2_frame* frame, void* user);
  static int on_data_chunk(nghttp2_session* raw, std::uint8_t flags, std::int32_t id, const std::uint8_t* data,
                           std::size_t size, void* user);
  static int on_stream_close(nghttp2_session* raw, std::int32_t id, std::uint32_t error_code, void* user);
  static int on_frame_send(nghttp2_session* raw, const nghttp2_frame* frame, void* user);
};
