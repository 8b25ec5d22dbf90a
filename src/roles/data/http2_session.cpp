// SPDX-License-Identifier: MIT
#include "roles/data/http2_session.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "dirigent/base/assert.h"
#include "roles/data/http2_callbacks.h"
#include "roles/data/http2_fields.h"
#include "roles/data/http_head.h"
#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

namespace {

using Io = PolledSocket::Io;

constexpr std::size_t kFrameMax = 16 * 1024 + 64;       // nghttp2 fills frames of 16 KiB at most
constexpr std::int32_t kConnectionWindow = 1024 * 1024;
constexpr std::uint32_t kStreamWindow = 64 * 1024;
constexpr std::size_t kOutboundFramesMax = 4096;        // queued answers at which a session stops reading
constexpr int kReadsMax = 32;                           // of 64 KiB, before the others get their turn
constexpr int kRoundsMax = 32;                          // of writes, likewise

std::size_t after_first_line(const char* text, std::size_t size) {
  const void* newline = std::memchr(text, '\n', size);
  return newline == nullptr ? size : static_cast<std::size_t>(static_cast<const char*>(newline) - text) + 1;
}

nghttp2_data_provider output_provider() {
  nghttp2_data_provider provider{};
  provider.read_callback = &Http2Callbacks::read_output;
  return provider;
}

}  // namespace

// --- streams ------------------------------------------------------------------------------------------------------

void Http2Stream::begin_stream() {
  ASSERT(session_ == nullptr && input_.empty());
  id_ = 0;
  closed_ = input_ended_ = submitted_ = head_sent_ = deferred_ = last_ = end_sent_ = false;
  lent_ = taken_ = 0;
  error_ = 0;
  output_ = output_trailers_ = {};
  trailers_.clear();
}

BodyPart Http2Stream::read_input(BlockPool& pool) {
  if (lent_ > 0) {
    input_.pop(pool, lent_);
    if (session_ != nullptr && !closed_) {
      nghttp2_session_consume_stream(session_->session_, id_, lent_);
      session_->want_flush();
    }
    lent_ = 0;
  }
  BodyPart part;
  part.payload = input_.front();
  lent_ = part.payload.size();
  part.last = input_ended_ && lent_ == input_.size();
  if (lent_ > 0 || input_ended_) {
    part.state = BodyPart::State::ready;
  } else if (closed_) {
    part.state = BodyPart::State::failed;
    part.error = error_;
  }
  return part;
}

void Http2Stream::queue_output(std::string_view payload, bool last, std::string_view trailers) {
  ASSERT(output_.empty() && !last_);
  output_ = payload;
  last_ = last;
  output_trailers_ = trailers;
  if (!deferred_ || closed_ || (payload.empty() && !last)) return;
  deferred_ = false;
  nghttp2_session_resume_data(session_->session_, id_);
  session_->want_flush();
}

PolledSocket::Transfer Http2Stream::output_state() {
  PolledSocket::Transfer transfer;
  transfer.bytes = std::exchange(taken_, 0);
  if (!output_pending()) return transfer;
  transfer.io = closed_ ? Io::failed : Io::blocked;
  transfer.error = error_;
  return transfer;
}

void Http2Session::attach(Http2Stream& stream, std::int32_t id) {
  stream.session_ = this;
  stream.id_ = id;
  stream.place_ = streams_.size();
  streams_.push_back(&stream);
  if (id != 0) nghttp2_session_set_stream_user_data(session_, id, &stream);
}

void Http2Session::detach(Http2Stream& stream, std::uint32_t error_code) {
  ASSERT(stream.session_ == this);
  if (stream.id_ != 0 && session_ != nullptr) {
    nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
    if (!stream.closed_ && !stream.is_complete()) {
      nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id_, error_code);
      want_flush();
    }
  }
  if (stream.noted_) {
    stream.noted_ = false;
    *std::find(noted_.begin(), noted_.end(), &stream) = nullptr;
  }
  streams_[stream.place_] = streams_.back();
  streams_[stream.place_]->place_ = stream.place_;
  streams_.pop_back();
  stream.session_ = nullptr;
}

void Http2Session::note(Http2Stream& stream) {
  if (stream.noted_) return;
  stream.noted_ = true;
  noted_.push_back(&stream);
  want_flush();
}

void Http2Session::tell_noted() {
  for (std::size_t i = 0; i < noted_.size(); ++i) {
    Http2Stream* stream = noted_[i];
    if (stream == nullptr) continue;
    noted_[i] = nullptr;
    stream->noted_ = false;
    stream->on_progress();
  }
  noted_.clear();
}

// --- a session ----------------------------------------------------------------------------------------------------

Http2Session::~Http2Session() { ASSERT(session_ == nullptr, "an HTTP/2 session is destroyed while it is open"); }

bool Http2Session::open_session() {
  ASSERT(session_ == nullptr && streams_.empty() && noted_.empty());
  bytes_sent_ = 0;
  withheld_ = 0;
  cheap_frames_ = 0;
  counting_since_ = shard_.now();
  dead_ = false;
  peer_streams_max_ = 100;
  output_.clear();
  nghttp2_mem memory = Http2Callbacks::memory(&shard_.session_memory_);
  const bool is_server = side_ == Side::server;
  const auto make = is_server ? &nghttp2_session_server_new3 : &nghttp2_session_client_new3;
  if (make(&session_, Http2Callbacks::table(), this, Http2Callbacks::options(), &memory) != 0) {
    session_ = nullptr;
    return false;
  }
  const DataLimits& limits = shard_.options_.limits;
  const auto head_max = static_cast<std::uint32_t>(is_server ? limits.head_max.value : 2 * limits.head_max.value);
  std::vector<nghttp2_settings_entry> settings{{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
                                               {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, head_max}};
  if (is_server) {
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.streams_max});
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1});
  } else {
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
  }
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  return true;
}

void Http2Session::close_session() {
  ASSERT(streams_.empty());
  nghttp2_session_del(session_);
  session_ = nullptr;
  noted_.clear();
  output_.clear();
  shard_.blocks_.give(out_);
  out_ = nullptr;
  if (wants_flush_) shard_.forget_flush(*this);
  wants_flush_ = false;
  shard_.forget_session(*this);
}

void Http2Session::die(int error) {
  if (session_ == nullptr || dead_) return;
  dead_ = true;
  while (!streams_.empty()) {
    Http2Stream& stream = *streams_.back();
    stream.closed_ = true;
    stream.error_ = error;
    if (stream.is_complete()) {
      stream.on_progress();
    } else {
      stream.on_broken(NGHTTP2_CANCEL);
    }
    if (!streams_.empty() && streams_.back() == &stream) detach(stream, 0);  // its owner keeps what it has of it
  }
  on_dead();
}

bool Http2Session::upgrade(std::string_view settings, bool is_head) {
  return nghttp2_session_upgrade2(session_, reinterpret_cast<const std::uint8_t*>(settings.data()), settings.size(),
                                  is_head ? 1 : 0, nullptr) == 0;
}

// --- receiving ----------------------------------------------------------------------------------------------------

void Http2Session::on_ready() {
  if (session_ == nullptr) return;
  shard_.read_clock();
  if (broken() && !readable()) {
    die(0);
    return;
  }
  want_flush();
  for (int reads = 0; readable(); ++reads) {
    if (output_.pending() && nghttp2_session_get_outbound_queue_size(session_) > kOutboundFramesMax) return;
    if (reads == kReadsMax) {
      shard_.read_on_later(*this);
      return;
    }
    const Transfer transfer = receive(shard_.read_buffer_.data(), shard_.read_buffer_.size());
    if (transfer.io == Io::blocked) return;
    if (transfer.io != Io::done) {
      die(transfer.error);
      return;
    }
    if (!feed({shard_.read_buffer_.data(), transfer.bytes})) return;
  }
}

bool Http2Session::discard_input() {
  for (int reads = 0; readable(); ++reads) {
    if (reads == kReadsMax) return false;
    const Transfer transfer = receive(shard_.read_buffer_.data(), shard_.read_buffer_.size());
    if (transfer.io == Io::ended || transfer.io == Io::failed) return false;
  }
  return true;
}

bool Http2Session::feed(std::string_view bytes) {
  const ssize_t used =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (used < 0) {
    die(EPROTO);
    return false;
  }
  return true;
}

void Http2Session::begin_block() {
  for (std::string* text : {&fields_, &method_, &path_, &authority_, &host_, &cookie_, &status_, &protocol_})
    text->clear();
  has_length_ = head_too_large_ = bad_block_ = false;
}

void Http2Session::add_to_block(std::string_view name, std::string_view value) {
  const std::size_t size_max =
      static_cast<std::size_t>(shard_.options_.limits.head_max.value) * (side_ == Side::server ? 1 : 2);
  if (fields_.size() + cookie_.size() + path_.size() + name.size() + value.size() > size_max) {
    head_too_large_ = true;
    return;
  }
  if (name.starts_with(':')) {
    if (name == ":method") method_ = value;
    if (name == ":path") path_ = value;
    if (name == ":authority") authority_ = value;
    if (name == ":status") status_ = value;
    if (name == ":protocol") protocol_ = value;
    return;
  }
  if (name == "host") {
    bad_block_ = bad_block_ || !host_.empty();
    host_ = value;
  } else if (name == "cookie") {
    // HTTP/2 may send the crumbs one by one; HTTP/1 knows one line of them.
    if (!cookie_.empty()) cookie_.append("; ");
    cookie_.append(value);
  } else {
    has_length_ = has_length_ || name == "content-length";
    fields_.append(name).append(": ").append(value).append("\r\n");
  }
}

void Http2Session::end_block(Http2Stream& stream, bool ended) {
  if (ended) stream.input_ended_ = true;
  const bool is_trailer = method_.empty() && status_.empty();
  if (!is_trailer) {
    build_head(ended, stream);
    stream.on_head(ended);
    return;
  }
  // What frames, routes or authenticates a message has no business after it.
  for (std::size_t at = 0; at < fields_.size();) {
    const std::size_t end = fields_.find('\n', at) + 1;
    const std::string_view line(fields_.data() + at, end - at);
    if (header_kind(line.substr(0, line.find(':'))) == HeaderKind::other) stream.trailers_.append(line);
    at = end;
  }
  stream.on_progress();
}

void Http2Session::take_payload(Http2Stream* stream, std::int32_t id, std::string_view bytes) {
  if (stream == nullptr) {
    nghttp2_session_consume(session_, id, bytes.size());  // of a stream that has been given up
    return;
  }
  stream->input_.append(shard_.blocks_, bytes);
  if (shard_.is_short_of_memory(shard_.memory_in_use())) {
    if (withheld_ == 0) shard_.return_window_later(*this);
    withheld_ += bytes.size();
  } else {
    nghttp2_session_consume_connection(session_, bytes.size());
  }
}

void Http2Session::count_cheap_frame() {
  const Instant now = shard_.now();
  if (now - counting_since_ > 1s) {
    counting_since_ = now;
    cheap_frames_ = 0;
  }
  if (++cheap_frames_ != 2 * shard_.options_.limits.streams_max + 200) return;
  ++shard_.metrics_.http2_floods;
  terminate(NGHTTP2_ENHANCE_YOUR_CALM);
}

void Http2Session::return_window() {
  nghttp2_session_consume_connection(session_, std::exchange(withheld_, 0));
  want_flush();
}

// --- sending ------------------------------------------------------------------------------------------------------

bool Http2Session::submit_answer(Http2Stream& stream, char* text, std::size_t size, bool ends) {
  FieldList& fields = FieldList::fresh();
  fields.add(":status", {text + 9, 3});
  const std::size_t first = after_first_line(text, size);
  fields.add_lines(text + first, size - first);
  const nghttp2_data_provider provider = output_provider();
  stream.submitted_ = true;
  want_flush();
  return nghttp2_submit_response(session_, stream.id_, fields.data(), fields.size(), ends ? nullptr : &provider) == 0;
}

bool Http2Session::submit_interim(Http2Stream& stream, char* text, std::size_t size) {
  FieldList& fields = FieldList::fresh();
  fields.add(":status", {text + 9, 3});
  const std::size_t first = after_first_line(text, size);
  fields.add_lines(text + first, size - first);
  want_flush();
  return nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream.id_, nullptr, fields.data(), fields.size(),
                                nullptr) == 0;
}

bool Http2Session::submit_request(Http2Stream& stream, char* text, std::size_t size, bool ends) {
  const std::string_view line(text, after_first_line(text, size));
  const std::size_t method_end = line.find(' ');
  const std::size_t path_end = line.rfind(' ');
  FieldList& fields = FieldList::fresh();
  fields.add(":method", line.substr(0, method_end));
  fields.add(":scheme", "http");
  fields.add(":path", line.substr(method_end + 1, path_end - method_end - 1));
  fields.add(":authority", {});
  // Pseudo-header fields come first, and Host among the others.
  fields.set_value(3, fields.add_lines(text + line.size(), size - line.size()));
  const nghttp2_data_provider provider = output_provider();
  const std::int32_t id =
      nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(), ends ? nullptr : &provider, &stream);
  if (id < 0) return false;
  stream.id_ = id;
  stream.submitted_ = true;
  want_flush();
  return true;
}

bool Http2Session::submit_trailers(Http2Stream& stream) {
  thread_local std::string text;
  text = stream.output_trailers_;
  FieldList& fields = FieldList::fresh();
  fields.add_lines(text.data(), text.size());
  return nghttp2_submit_trailer(session_, stream.id_, fields.data(), fields.size()) == 0;
}

void Http2Session::submit_goaway(std::uint32_t error_code) {
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), error_code,
                        nullptr, 0);
  want_flush();
}

void Http2Session::terminate(std::uint32_t error_code) {
  nghttp2_session_terminate_session(session_, error_code);
  want_flush();
}

void Http2Session::submit_shutdown_notice() {
  nghttp2_submit_shutdown_notice(session_);
  want_flush();
}

void Http2Session::submit_ping() {
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  want_flush();
}

bool Http2Session::has_pending_output() const { return output_.pending() || nghttp2_session_want_write(session_) != 0; }

void Http2Session::want_flush() {
  if (wants_flush_) return;
  wants_flush_ = true;
  shard_.flush_later(*this);
}

// Takes frames from nghttp2 until the block is full or there are no more. False: nghttp2 gives up.
bool Http2Session::fill_output() {
  if (out_ == nullptr) out_ = shard_.blocks_.take(BlockPool::kLarge);
  std::size_t size = 0;
  while (out_->capacity - size >= kFrameMax) {
    const std::uint8_t* frame = nullptr;
    const ssize_t frame_size = nghttp2_session_mem_send(session_, &frame);
    if (frame_size < 0) return false;
    if (frame_size == 0) break;
    ASSERT(static_cast<std::size_t>(frame_size) <= out_->capacity - size);
    std::memcpy(out_->data() + size, frame, static_cast<std::size_t>(frame_size));
    size += static_cast<std::size_t>(frame_size);
  }
  output_.add(out_->data(), size);
  return true;
}

void Http2Session::flush() {
  wants_flush_ = false;
  for (int round = 0; is_alive(); ++round) {
    if (!output_.pending()) {
      if (!fill_output()) {
        die(EPROTO);
        return;
      }
      if (!output_.pending()) break;
    }
    const Transfer transfer = send(output_);
    bytes_sent_ += transfer.bytes;
    if (transfer.io == Io::failed) {
      die(transfer.error);
      return;
    }
    if (transfer.io == Io::blocked) return;
    tell_noted();
    if (round == kRoundsMax) {
      if (is_alive()) shard_.read_on_later(*this);
      return;
    }
  }
  if (!is_alive()) return;
  shard_.blocks_.give(out_);
  out_ = nullptr;
  tell_noted();
  if (!is_alive()) return;
  if (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0) {
    die(0);  // it has said GOAWAY, and all that it may say
  } else {
    on_flushed();
  }
}

}  // namespace dirigent::roles
