// SPDX-License-Identifier: MIT
//
// HTTP/2 without TLS, by prior knowledge: all functions share a few connections, as the Invitro loader's do. Calls
// beyond what the server allows at a time wait here, and their latency counts that wait.
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>

#include "bench/pool.h"
#include "bench/request_bytes.h"
#include "bench/response_reader.h"
#include "bench/server_timing.h"
#include "dirigent/base/assert.h"
#include "dirigent/io/loop.h"

namespace dirigent::bench {

namespace {

constexpr Duration kConnectPause = 20ms;
constexpr std::size_t kReadBytes = 64 * 1024;
constexpr std::size_t kUnsentBytesMax = 256 * 1024;
// The windows that Go's client opens: 4 MiB for a stream, 1 GiB for the connection.
constexpr std::int32_t kStreamWindow = 4 << 20;
constexpr std::int32_t kConnectionWindow = 1 << 30;
// At a time on one connection, when the server states no limit (Go's client assumes the same).
constexpr std::uint32_t kStreamsUnstated = 1000;

class H2Pool;
class H2Connection;

struct Stream {
  Call call;
  std::int32_t id = 0;
  H2Connection* connection = nullptr;
  Stream* earlier = nullptr;  // in flight, in the order of their intended starts
  Stream* later = nullptr;
  std::size_t body_sent = 0;
  Instant head_at{};
  int status = 0;
  Timing timing;
  std::string run_time;  // the value of a header
  std::string reason;
  std::string body;
  std::uint64_t body_bytes = 0;
  bool has_ended = false;  // the response is whole
};

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

class H2Connection final : public Pollable {
 public:
  H2Connection(H2Pool& pool, io::FileDescriptor socket);
  H2Connection(const H2Connection&) = delete;
  H2Connection& operator=(const H2Connection&) = delete;
  ~H2Connection() override { nghttp2_session_del(session_); }

  void on_events(std::uint32_t events) override;
  [[nodiscard]] bool has_room() const;
  [[nodiscard]] std::size_t streams() const { return streams_; }
  [[nodiscard]] int fd() const { return socket_.get(); }
  void start(Stream& stream);
  void reset(Stream& stream);
  void write();
  void end();

  bool is_connecting = true;
  bool has_settings = false;  // of the peer
  bool is_closed = false;
  bool is_leaving = false;  // the peer takes no more streams
  std::size_t streams_ = 0;

 private:
  static H2Connection& of(void* user) { return *static_cast<H2Connection*>(user); }
  static Stream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }
  static nghttp2_session_callbacks* callbacks();
  static int on_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t*, std::size_t, const std::uint8_t*,
                       std::size_t, std::uint8_t, void*);
  static int on_frame(nghttp2_session*, const nghttp2_frame*, void*);
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t, const std::uint8_t*, std::size_t, void*);
  static int on_close(nghttp2_session*, std::int32_t, std::uint32_t, void*);
  static ssize_t read_body(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t, std::uint32_t*,
                           nghttp2_data_source*, void*);
  void read();

  H2Pool& pool_;
  io::FileDescriptor socket_;
  nghttp2_session* session_ = nullptr;
  std::string unsent_;
  std::size_t sent_ = 0;
};

class H2Pool final : public Pool {
 public:
  explicit H2Pool(const PoolContext& context) : context_(context), to_head_(context.plan.request.method == "HEAD") {
    for (const Target& target : context.plan.targets) fields_.push_back(header_fields(context.plan, target, true));
    open_all(io::Loop::now());
  }

  void submit(const Call& call) override {
    waiting_.push_back(call);
    start_waiting();
  }
  void flush() override {
    for (const auto& connection : connections_) {
      if (!connection->is_connecting && !connection->is_closed) connection->write();
    }
    for (auto& connection : connections_) {
      if (connection->is_closed) context_.poller.retire(std::move(connection));
    }
    std::erase(connections_, nullptr);
  }
  void expire(Instant now) override {
    const Duration timeout = context_.plan.timeout;
    while (oldest_ != nullptr && oldest_->call.intended + timeout <= now) {
      Stream& stream = *oldest_;
      stream.connection->reset(stream);
      finish(stream, Fault::timed_out);
    }
    while (!waiting_.empty() && waiting_.front().intended + timeout <= now) fail_waiting(Fault::timed_out, now);
    if (now >= connect_again_) open_all(now);
  }
  [[nodiscard]] std::optional<Instant> next_expiry() const override {
    std::optional<Instant> next;
    const auto take = [&](Instant when) { next = next ? std::min(*next, when) : when; };
    if (oldest_ != nullptr) take(oldest_->call.intended + context_.plan.timeout);
    if (!waiting_.empty()) {
      take(waiting_.front().intended + context_.plan.timeout);
      if (connections_.size() < context_.connections) take(connect_again_);
    }
    return next;
  }
  [[nodiscard]] std::uint64_t opened() const override { return opened_; }

  // --- for the connections ---
  [[nodiscard]] const Plan& plan() const { return context_.plan; }
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& fields(std::uint32_t target) const {
    return fields_[target];
  }
  char* buffer() { return buffer_.data(); }
  std::vector<nghttp2_nv>& scratch() { return scratch_; }

  // Onto the connection with the fewest streams.
  void start_waiting() {
    while (!waiting_.empty()) {
      H2Connection* best = nullptr;
      for (const auto& connection : connections_) {
        if (connection->has_room() && (best == nullptr || connection->streams() < best->streams()))
          best = connection.get();
      }
      if (best == nullptr) return;
      Stream& stream = take_stream();
      stream.call = waiting_.front();
      waiting_.pop_front();
      stream.connection = best;
      stream.earlier = newest_;
      (newest_ != nullptr ? newest_->later : oldest_) = &stream;
      newest_ = &stream;
      best->start(stream);
    }
  }
  // Ends the stream's call and takes the stream back. `fault` none: by what came.
  void finish(Stream& stream, Fault fault) {
    (stream.earlier != nullptr ? stream.earlier->later : oldest_) = stream.later;
    (stream.later != nullptr ? stream.later->earlier : newest_) = stream.earlier;
    --stream.connection->streams_;
    Answer answer;
    answer.end_at = io::Loop::now();
    answer.fault = fault;
    answer.head_at = stream.head_at;
    if (fault == Fault::none) {
      if (answer.head_at == Instant{}) answer.head_at = answer.end_at;
      answer.status = stream.status;
      answer.timing = stream.timing;
      answer.reason = stream.reason;
      answer.body = stream.body;
      answer.body_bytes = stream.body_bytes;
    }
    context_.owner.completed(stream.call, answer);
    free_streams_.push_back(&stream);
  }
  void fail_streams_of(const H2Connection& connection, Fault fault) {
    for (Stream* stream = oldest_; stream != nullptr;) {
      Stream* const later = stream->later;
      if (stream->connection == &connection) finish(*stream, fault);
      stream = later;
    }
  }
  // No connection came of an attempt: one waiting call pays for it, so that a dead server is seen at once.
  void attempt_failed(Fault fault) {
    const Instant now = io::Loop::now();
    connect_again_ = now + kConnectPause;
    if (!waiting_.empty()) fail_waiting(fault, now);
  }
  void connection_lost() { connect_again_ = std::max(connect_again_, io::Loop::now()); }

 private:
  Stream& take_stream() {
    if (free_streams_.empty()) {
      streams_.push_back(std::make_unique<Stream>());
      return *streams_.back();
    }
    Stream& stream = *free_streams_.back();
    free_streams_.pop_back();
    stream.earlier = stream.later = nullptr;
    stream.body_sent = 0;
    stream.head_at = Instant{};
    stream.status = 0;
    stream.timing = {};
    stream.reason.clear();
    stream.body.clear();
    stream.body_bytes = 0;
    stream.has_ended = false;
    return stream;
  }
  void fail_waiting(Fault fault, Instant now) {
    const Call call = waiting_.front();
    waiting_.pop_front();
    Answer answer;
    answer.fault = fault;
    answer.end_at = now;
    context_.owner.completed(call, answer);
  }
  void open_all(Instant now) {
    while (connections_.size() < context_.connections && now >= connect_again_) {
      auto socket = start_connect(context_.address);
      if (!socket) return attempt_failed(Fault::connect_failed);
      ++opened_;
      connections_.push_back(std::make_unique<H2Connection>(*this, std::move(*socket)));
      context_.poller.add(connections_.back()->fd(), *connections_.back());
    }
  }

  const PoolContext context_;
  const bool to_head_;
  std::vector<std::vector<std::pair<std::string, std::string>>> fields_;  // by target
  std::vector<std::unique_ptr<Stream>> streams_;  // before the connections: their sessions point at them
  std::vector<Stream*> free_streams_;
  std::vector<std::unique_ptr<H2Connection>> connections_;
  std::deque<Call> waiting_;
  Instant connect_again_{};
  Stream* oldest_ = nullptr;
  Stream* newest_ = nullptr;
  std::uint64_t opened_ = 0;
  std::vector<nghttp2_nv> scratch_;
  std::array<char, kReadBytes> buffer_;
};

nghttp2_session_callbacks* H2Connection::callbacks() {
  static nghttp2_session_callbacks* const made = [] {
    nghttp2_session_callbacks* callbacks = nullptr;
    ASSERT(nghttp2_session_callbacks_new(&callbacks) == 0, "out of memory");
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    return callbacks;
  }();
  return made;
}

H2Connection::H2Connection(H2Pool& pool, io::FileDescriptor socket) : pool_(pool), socket_(std::move(socket)) {
  ASSERT(nghttp2_session_client_new(&session_, callbacks(), this) == 0, "out of memory");
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow}};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

bool H2Connection::has_room() const {
  // Before the server's settings its limit is not known, and what is beyond it would be refused.
  if (!has_settings || is_closed || is_leaving || nghttp2_session_check_request_allowed(session_) == 0) return false;
  const std::uint32_t allowed = nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
  return streams_ < (allowed == UINT32_MAX ? kStreamsUnstated : allowed);
}

int H2Connection::on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                            std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                            void*) {
  Stream* const stream = stream_of(session, frame->hd.stream_id);
  if (stream == nullptr || frame->hd.type != NGHTTP2_HEADERS) return 0;
  const std::string_view key(reinterpret_cast<const char*>(name), name_size);
  const std::string_view text(reinterpret_cast<const char*>(value), value_size);
  if (key == ":status") {
    std::from_chars(text.data(), text.data() + text.size(), stream->status);
  } else if (key == "server-timing") {
    read_server_timing(text, stream->timing);
  } else if (key == "x-dirigent-reason") {
    stream->reason = text;
  }
  return 0;
}

int H2Connection::on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
  if (frame->hd.type == NGHTTP2_GOAWAY) of(user).is_leaving = true;
  if (frame->hd.type == NGHTTP2_SETTINGS && (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) of(user).has_settings = true;
  Stream* const stream = frame->hd.stream_id == 0 ? nullptr : stream_of(session, frame->hd.stream_id);
  if (stream == nullptr) return 0;
  if (frame->hd.type == NGHTTP2_HEADERS && stream->head_at == Instant{} && stream->status >= 200)
    stream->head_at = io::Loop::now();
  if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
      (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)) {
    stream->has_ended = true;
  }
  return 0;
}

int H2Connection::on_data(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                          std::size_t size, void*) {
  Stream* const stream = stream_of(session, id);
  if (stream == nullptr) return 0;
  stream->body_bytes += size;
  if (stream->body.size() < kBodyKept)
    stream->body.append(reinterpret_cast<const char*>(data), std::min(size, kBodyKept - stream->body.size()));
  return 0;
}

int H2Connection::on_close(nghttp2_session* session, std::int32_t id, std::uint32_t error, void* user) {
  Stream* const stream = stream_of(session, id);
  if (stream == nullptr) return 0;
  nghttp2_session_set_stream_user_data(session, id, nullptr);
  Fault fault = Fault::none;
  if (!stream->has_ended) fault = error == NGHTTP2_NO_ERROR ? Fault::bad_response : Fault::stream_reset;
  of(user).pool_.finish(*stream, fault);
  return 0;
}

ssize_t H2Connection::read_body(nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t room,
                                std::uint32_t* flags, nghttp2_data_source* source, void* user) {
  auto& stream = *static_cast<Stream*>(source->ptr);
  const std::string& body = of(user).pool_.plan().request.body;
  const std::size_t size = std::min(room, body.size() - stream.body_sent);
  std::memcpy(out, body.data() + stream.body_sent, size);
  stream.body_sent += size;
  if (stream.body_sent == body.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return static_cast<ssize_t>(size);
}

void H2Connection::start(Stream& stream) {
  const Plan& plan = pool_.plan();
  const Target& target = plan.targets[stream.call.target];
  auto& fields = pool_.scratch();
  fields.clear();
  fields.push_back(field(":method", plan.request.method));
  fields.push_back(field(":scheme", "http"));
  fields.push_back(field(":authority", target.authority));
  fields.push_back(field(":path", target.path));
  for (const auto& [name, value] : pool_.fields(stream.call.target)) fields.push_back(field(name, value));
  if (plan.request.invitro) {
    stream.run_time = std::to_string(stream.call.run_time / 1ms);
    fields.push_back(field("requested_cpu", stream.run_time));
  }
  nghttp2_data_provider body{};
  body.source.ptr = &stream;
  body.read_callback = read_body;
  stream.call.sent = io::Loop::now();
  ++streams_;
  const std::int32_t id = nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(),
                                                 plan.request.body.empty() ? nullptr : &body, &stream);
  if (id < 0) {
    // No stream ids are left, or no memory: this connection takes no more.
    is_leaving = true;
    pool_.finish(stream, Fault::connection_ended);
    return;
  }
  stream.id = id;
}

void H2Connection::reset(Stream& stream) {
  nghttp2_session_set_stream_user_data(session_, stream.id, nullptr);
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_CANCEL);
}

void H2Connection::on_events(std::uint32_t events) {
  if (is_closed) return;
  if (is_connecting) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    is_connecting = false;
    if (connect_error(socket_.get()) != 0) {
      is_closed = true;
      pool_.attempt_failed(Fault::connect_failed);
      return;
    }
    return;  // our settings are written with the next flush; calls follow the server's
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0) read();
  if (!is_closed) write();
}

void H2Connection::read() {
  for (;;) {
    const ssize_t size = ::recv(socket_.get(), pool_.buffer(), kReadBytes, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) break;
    if (size <= 0) return end();
    if (nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(pool_.buffer()),
                                 static_cast<std::size_t>(size)) < 0)
      return end();
  }
  if (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0) return end();
  pool_.start_waiting();
}

// Gathers frames into one piece before each system call.
void H2Connection::write() {
  for (;;) {
    while (unsent_.size() - sent_ < kUnsentBytesMax) {
      const std::uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size < 0) return end();
      if (size == 0) break;
      unsent_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    if (sent_ == unsent_.size()) return;
    const ssize_t size = ::send(socket_.get(), unsent_.data() + sent_, unsent_.size() - sent_, MSG_NOSIGNAL);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) end();
      return;
    }
    sent_ += static_cast<std::size_t>(size);
    if (sent_ == unsent_.size()) {
      unsent_.clear();
      sent_ = 0;
    }
  }
}

// The pool removes it with its next flush.
void H2Connection::end() {
  is_closed = true;
  pool_.fail_streams_of(*this, Fault::connection_ended);
  if (has_settings) pool_.connection_lost();
  else pool_.attempt_failed(Fault::bad_response);  // whoever is there does not speak HTTP/2
}

}  // namespace

std::unique_ptr<Pool> make_h2_pool(const PoolContext& context) { return std::make_unique<H2Pool>(context); }

}  // namespace dirigent::bench
