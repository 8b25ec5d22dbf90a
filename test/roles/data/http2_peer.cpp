// SPDX-License-Identifier: MIT
#include "http2_peer.h"

#include <nghttp2/nghttp2.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace dirigent::test {

std::string field(const Fields& fields, std::string_view name) {
  for (const auto& [known, value] : fields) {
    if (known == name) return value;
  }
  return "";
}

int count_fields(const Fields& fields, std::string_view name) {
  return static_cast<int>(
      std::count_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; }));
}

int PeerStream::status() const { return std::atoi(field(head, ":status").c_str()); }

namespace {
std::vector<nghttp2_nv> as_nv(const Fields& fields) {
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) {
    list.push_back(nghttp2_nv{reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                              reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(),
                              value.size(), NGHTTP2_NV_FLAG_NONE});
  }
  return list;
}
}  // namespace

struct PeerCallbacks {
  static Http2Peer& of(void* user) { return *static_cast<Http2Peer*>(user); }

  static int on_begin_headers(nghttp2_session*, const nghttp2_frame*, void* user) {
    of(user).block_.clear();
    return 0;
  }
  static int on_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t* name, std::size_t name_size,
                       const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
    of(user).block_.emplace_back(std::string(reinterpret_cast<const char*>(name), name_size),
                                 std::string(reinterpret_cast<const char*>(value), value_size));
    return 0;
  }
  static int on_frame_recv(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Http2Peer& peer = of(user);
    if (frame->hd.type == NGHTTP2_GOAWAY) {
      peer.got_goaway = true;
      peer.goaway_error = frame->goaway.error_code;
      peer.goaway_last = frame->goaway.last_stream_id;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    PeerStream& stream = peer.streams_[frame->hd.stream_id];
    stream.id = frame->hd.stream_id;
    const bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_HEADERS) {
      const std::string status = field(peer.block_, ":status");
      if (status.starts_with("1")) {
        stream.interim.push_back(std::atoi(status.c_str()));
      } else if (!stream.has_head) {
        stream.head = peer.block_;
        stream.has_head = true;
        stream.ended_with_head = ended;
      } else {
        stream.trailers = peer.block_;
      }
    }
    if (ended) stream.ended = true;
    return 0;
  }
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size,
                     void* user) {
    of(user).streams_[id].body.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }
  static int on_stream_close(nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
    PeerStream& stream = of(user).streams_[id];
    stream.closed = true;
    stream.error = error;
    return 0;
  }
  static ssize_t read_output(nghttp2_session* session, std::int32_t id, std::uint8_t* to, std::size_t capacity,
                             std::uint32_t* flags, nghttp2_data_source*, void* user) {
    PeerStream& stream = of(user).streams_[id];
    const std::size_t part = std::min(capacity, stream.output.size());
    std::copy_n(stream.output.data(), part, to);
    stream.output.erase(0, part);
    if (stream.output.empty() && stream.last) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      if (!stream.output_trailers.empty()) {
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        const auto list = as_nv(stream.output_trailers);
        nghttp2_submit_trailer(session, id, list.data(), list.size());
      }
    } else if (part == 0) {
      stream.deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(part);
  }
};

Http2Peer::Http2Peer(Wire wire, Side side, Options options) : wire_(std::move(wire)), options_(options) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, &PeerCallbacks::on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, &PeerCallbacks::on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, &PeerCallbacks::on_frame_recv);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &PeerCallbacks::on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &PeerCallbacks::on_stream_close);
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  if (!options.returns_window) nghttp2_option_set_no_auto_window_update(option, 1);
  if (!options.checks) nghttp2_option_set_no_http_messaging(option, 1);
  nghttp2_option_set_peer_max_concurrent_streams(option, 100'000);
  if (side == Side::client) {
    nghttp2_session_client_new2(&session_, callbacks, this, option);
  } else {
    nghttp2_session_server_new2(&session_, callbacks, this, option);
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  std::vector<nghttp2_settings_entry> settings{{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, options.stream_window}};
  if (options.streams_max != 0) settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options.streams_max});
  if (!options.sends_preface) return;
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  flush();
}

Http2Peer::~Http2Peer() { nghttp2_session_del(session_); }

void Http2Peer::begin_upgraded(std::string_view settings) {
  nghttp2_session_upgrade2(session_, reinterpret_cast<const std::uint8_t*>(settings.data()), settings.size(), 0,
                           nullptr);
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  flush();
}

std::int32_t Http2Peer::request(const Fields& head, std::string_view body, bool last, bool at_once) {
  nghttp2_data_provider provider{};
  provider.read_callback = &PeerCallbacks::read_output;
  const auto list = as_nv(head);
  const bool bodiless = last && body.empty();
  const std::int32_t id =
      nghttp2_submit_request(session_, nullptr, list.data(), list.size(), bodiless ? nullptr : &provider, nullptr);
  if (id < 0) throw std::runtime_error(nghttp2_strerror(id));
  PeerStream& stream = streams_[id];
  stream.id = id;
  stream.output = body;
  stream.last = last;
  if (at_once) {
    flush();
  } else {
    collect();
  }
  return id;
}

std::int32_t Http2Peer::get(const std::string& authority, const std::string& path) {
  return request({{":method", "GET"}, {":scheme", "http"}, {":authority", authority}, {":path", path}});
}

PeerStream Http2Peer::answer(std::int32_t id) {
  pump_until([&] { return streams_[id].closed || (streams_[id].ended && streams_[id].has_head); });
  return streams_[id];
}

void Http2Peer::respond(std::int32_t id, const Fields& head, std::string_view body, bool last) {
  nghttp2_data_provider provider{};
  provider.read_callback = &PeerCallbacks::read_output;
  PeerStream& stream = streams_[id];
  stream.output = body;
  stream.last = last;
  const auto list = as_nv(head);
  nghttp2_submit_response(session_, id, list.data(), list.size(), last && body.empty() ? nullptr : &provider);
  flush();
}

void Http2Peer::interim(std::int32_t id, const Fields& head) {
  const auto list = as_nv(head);
  nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, id, nullptr, list.data(), list.size(), nullptr);
  flush();
}

void Http2Peer::write(std::int32_t id, std::string_view body, bool last) {
  PeerStream& stream = streams_[id];
  stream.output += body;
  stream.last = last;
  if (std::exchange(stream.deferred, false)) nghttp2_session_resume_data(session_, id);
  flush();
}

void Http2Peer::end_with(std::int32_t id, const Fields& trailers) {
  streams_[id].output_trailers = trailers;
  write(id, {}, true);
}

void Http2Peer::reset(std::int32_t id, std::uint32_t error) {
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, error);
  flush();
}

void Http2Peer::ping() {
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  flush();
}

void Http2Peer::settings() {
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  flush();
}

void Http2Peer::goaway() {
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), 0, nullptr, 0);
  flush();
}

void Http2Peer::return_window(std::int32_t id, std::size_t bytes) {
  nghttp2_session_consume(session_, id, bytes);
  flush();
}

std::uint32_t Http2Peer::peer_streams_max() const {
  return nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

bool Http2Peer::accepts_connect_protocol() const {
  return nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1;
}

void Http2Peer::collect() {
  for (;;) {
    const std::uint8_t* bytes = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
    if (size <= 0) return;
    held_.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
  }
}

void Http2Peer::flush() {
  collect();
  wire_.write(std::exchange(held_, {}));
}

bool Http2Peer::pump() {
  const std::string bytes = wire_.read_some(65536);
  if (bytes.empty()) return false;
  if (nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()) < 0)
    return false;
  flush();
  return true;
}

bool Http2Peer::pump_until(const std::function<bool()>& condition) {
  while (!condition()) {
    if (!pump()) return condition();
  }
  return true;
}

FakeSandbox::Serve serving_http2(std::function<void(Http2Peer&, PeerStream&)> on_change, Http2Peer::Options options) {
  return [on_change = std::move(on_change), options](Wire& wire, FakeSandbox&) {
    // The wire stays with its owner, who closes it.
    Http2Peer peer(Wire(::dup(wire.fd())), Http2Peer::Side::server, options);
    while (peer.pump()) {
      std::vector<std::int32_t> ids;
      for (auto& [id, stream] : peer.streams()) ids.push_back(id);
      for (const std::int32_t id : ids) {
        if (peer.stream(id).closed && peer.stream(id).last) {
          peer.streams().erase(id);
        } else if (peer.stream(id).has_head) {
          on_change(peer, peer.stream(id));
        }
      }
    }
  };
}

FakeSandbox::Serve answering_http2(std::function<void(Http2Peer&, PeerStream&)> answer, Http2Peer::Options options) {
  return serving_http2(
      [answer = std::move(answer)](Http2Peer& peer, PeerStream& stream) {
        if (!stream.ended || stream.taken != 0) return;
        stream.taken = 1;
        answer(peer, stream);
      },
      options);
}

Http2Peer connect_http2(const std::string& address, Http2Peer::Options options) {
  return Http2Peer(Wire::connect(address), Http2Peer::Side::client, options);
}

}  // namespace dirigent::test
