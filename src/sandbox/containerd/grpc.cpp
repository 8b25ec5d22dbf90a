// SPDX-License-Identifier: MIT
#include "sandbox/containerd/grpc.h"

#include <nghttp2/nghttp2.h>

#include <array>
#include <asio/local/stream_protocol.hpp>
#include <asio/write.hpp>
#include <cstring>
#include <vector>

#include "dirigent/base/text.h"
#include "sandbox/helpers.h"

namespace dirigent::sandbox {

namespace {

using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<asio::local::stream_protocol, Executor>;

constexpr std::size_t kAnswerBytesMax = 16 << 20;
constexpr std::int32_t kWindowBytes = 4 << 20;

// The five bytes before each message: not compressed, and the size.
std::string framed(const std::string& message) {
  std::string out(5, '\0');
  const auto size = static_cast<std::uint32_t>(message.size());
  for (int i = 0; i < 4; ++i) out[static_cast<std::size_t>(1 + i)] = static_cast<char>(size >> (24 - 8 * i));
  return out + message;
}

std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && std::isxdigit(static_cast<unsigned char>(text[i + 1])) &&
        std::isxdigit(static_cast<unsigned char>(text[i + 2]))) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

ErrorCode code_of(std::int64_t grpc_status) {
  switch (grpc_status) {
    case 1: return ErrorCode::cancelled;
    case 3: return ErrorCode::invalid_argument;
    case 4: return ErrorCode::timed_out;
    case 5: return ErrorCode::not_found;
    case 6: return ErrorCode::already_exists;
    case 7: return ErrorCode::permission_denied;
    case 8: return ErrorCode::exhausted;
    case 12: return ErrorCode::unsupported;
    default: return ErrorCode::unavailable;
  }
}

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

struct Call {
  explicit Call(io::Loop& loop) : done(loop) {}
  std::string request;
  std::size_t sent = 0;
  std::string answer;
  std::int64_t status = -1;  // of gRPC; -1 = none was told
  std::string message;
  std::string http_status;
  Error broken;              // when the connection failed it
  Signal done;
};

}  // namespace

class GrpcClient::Connection : public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(io::Loop& loop) : socket_(loop.context().get_executor()) {}
  ~Connection() { ::nghttp2_session_del(session_); }

  Status open(const std::string& path);
  [[nodiscard]] bool is_usable() const { return usable_; }
  Result<std::int32_t> submit(const std::string& method, const std::map<std::string, std::string>& headers,
                              const std::shared_ptr<Call>& call);
  void forget(std::int32_t stream);
  void fail(const Error& error);

 private:
  static Connection& of(void* context) { return *static_cast<Connection*>(context); }
  Call* find(std::int32_t stream) {
    const auto found = calls_.find(stream);
    return found == calls_.end() ? nullptr : found->second.get();
  }
  Status make_session();
  void read();
  void flush();

  Socket socket_;
  nghttp2_session* session_ = nullptr;
  bool usable_ = false;
  bool writing_ = false;
  std::string out_;
  std::array<char, 64 * 1024> in_{};
  std::map<std::int32_t, std::shared_ptr<Call>> calls_;
};

Status GrpcClient::Connection::open(const std::string& path) {
  std::error_code error;
  socket_.connect(asio::local::stream_protocol::endpoint(path), error);
  if (error) return failure(ErrorCode::unavailable, "cannot connect to {}: {}", path, error.message());
  if (Status made = make_session(); !made) return made;
  usable_ = true;
  read();
  flush();
  return {};
}

Status GrpcClient::Connection::make_session() {
  nghttp2_session_callbacks* callbacks = nullptr;
  ::nghttp2_session_callbacks_new(&callbacks);
  ::nghttp2_session_callbacks_set_on_header_callback(
      callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                    const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* context) {
        Call* call = of(context).find(frame->hd.stream_id);
        if (call == nullptr) return 0;
        const std::string_view key(reinterpret_cast<const char*>(name), name_size);
        const std::string_view text(reinterpret_cast<const char*>(value), value_size);
        if (key == ":status") call->http_status = text;
        if (key == "grpc-status") call->status = parse_integer(text).value_or(2);
        if (key == "grpc-message") call->message = percent_decoded(text);
        return 0;
      });
  ::nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
      callbacks, [](nghttp2_session* session, std::uint8_t, std::int32_t stream, const std::uint8_t* data, std::size_t size,
                    void* context) {
        Call* call = of(context).find(stream);
        if (call == nullptr) return 0;
        call->answer.append(reinterpret_cast<const char*>(data), size);
        if (call->answer.size() > kAnswerBytesMax) ::nghttp2_submit_rst_stream(session, 0, stream, NGHTTP2_CANCEL);
        return 0;
      });
  ::nghttp2_session_callbacks_set_on_stream_close_callback(
      callbacks, [](nghttp2_session*, std::int32_t stream, std::uint32_t code, void* context) {
        auto& self = of(context);
        const auto found = self.calls_.find(stream);
        if (found == self.calls_.end()) return 0;
        if (found->second->status < 0)
          found->second->broken = Error{ErrorCode::unavailable, fmt::format("the call was broken off ({})", ::nghttp2_http2_strerror(code))};
        found->second->done.set();
        self.calls_.erase(found);
        return 0;
      });
  const int made = ::nghttp2_session_client_new(&session_, callbacks, this);
  ::nghttp2_session_callbacks_del(callbacks);
  if (made != 0) return failure(ErrorCode::exhausted, "cannot make an HTTP/2 session: {}", ::nghttp2_strerror(made));
  const std::array<nghttp2_settings_entry, 2> settings{{{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                                        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindowBytes}}};
  ::nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  ::nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindowBytes);
  return {};
}

void GrpcClient::Connection::read() {
  socket_.async_read_some(asio::buffer(in_), [self = shared_from_this()](std::error_code error, std::size_t size) {
    if (!self->usable_) return;
    if (error) return self->fail({ErrorCode::unavailable, "the connection broke: " + error.message()});
    const auto used = ::nghttp2_session_mem_recv(self->session_, reinterpret_cast<const std::uint8_t*>(self->in_.data()), size);
    if (used < 0) return self->fail({ErrorCode::unavailable, fmt::format("the server does not speak HTTP/2: {}", ::nghttp2_strerror(static_cast<int>(used)))});
    self->flush();
    self->read();
  });
}

// Everything that nghttp2 has to send in one write; more comes when that is done.
void GrpcClient::Connection::flush() {
  if (writing_ || !usable_) return;
  out_.clear();
  for (;;) {
    const std::uint8_t* data = nullptr;
    const auto size = ::nghttp2_session_mem_send(session_, &data);
    if (size <= 0) break;
    out_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
  }
  if (out_.empty()) {
    if (::nghttp2_session_want_read(session_) == 0) fail({ErrorCode::unavailable, "the server has ended the connection"});
    return;
  }
  writing_ = true;
  asio::async_write(socket_, asio::buffer(out_), [self = shared_from_this()](std::error_code error, std::size_t) {
    self->writing_ = false;
    if (error) return self->fail({ErrorCode::unavailable, "the connection broke: " + error.message()});
    self->flush();
  });
}

Result<std::int32_t> GrpcClient::Connection::submit(const std::string& method, const std::map<std::string, std::string>& headers,
                                                    const std::shared_ptr<Call>& call) {
  std::vector<nghttp2_nv> fields{field(":method", "POST"), field(":scheme", "http"), field(":path", method),
                                 field(":authority", "localhost"), field("content-type", "application/grpc"),
                                 field("te", "trailers")};
  for (const auto& [name, value] : headers) fields.push_back(field(name, value));
  nghttp2_data_provider body{};
  body.source.ptr = call.get();
  body.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* buffer, std::size_t size, std::uint32_t* flags,
                          nghttp2_data_source* source, void*) -> ssize_t {
    auto* of_call = static_cast<Call*>(source->ptr);
    const std::size_t taken = std::min(size, of_call->request.size() - of_call->sent);
    std::memcpy(buffer, of_call->request.data() + of_call->sent, taken);
    of_call->sent += taken;
    if (of_call->sent == of_call->request.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(taken);
  };
  const std::int32_t stream = ::nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(), &body, nullptr);
  if (stream < 0) return failure(ErrorCode::unavailable, "cannot begin a call: {}", ::nghttp2_strerror(stream));
  calls_[stream] = call;
  flush();
  return stream;
}

// The caller has gone; its memory stays until nghttp2 has closed the stream.
void GrpcClient::Connection::forget(std::int32_t stream) {
  if (!usable_ || !calls_.contains(stream)) return;
  ::nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream, NGHTTP2_CANCEL);
  flush();
}

void GrpcClient::Connection::fail(const Error& error) {
  if (!usable_) return;
  usable_ = false;
  std::error_code ignored;
  socket_.close(ignored);
  for (const auto& [stream, call] : std::exchange(calls_, {})) {
    call->broken = error;
    call->done.set();
  }
}

GrpcClient::GrpcClient(io::Loop& loop, std::string socket_path, std::map<std::string, std::string> headers)
    : loop_(loop), path_(std::move(socket_path)), headers_(std::move(headers)) {}

GrpcClient::~GrpcClient() {
  if (connection_) connection_->fail({ErrorCode::cancelled, "the client is closing"});
}

Result<std::shared_ptr<GrpcClient::Connection>> GrpcClient::connect() {
  if (connection_ && connection_->is_usable()) return connection_;
  auto connection = std::make_shared<Connection>(loop_);
  if (Status opened = connection->open(path_); !opened) return failure(opened.error());
  connection_ = std::move(connection);
  return connection_;
}

io::Task<std::string> GrpcClient::call(std::string method, std::string request, Duration timeout) {
  auto connection = connect();
  if (!connection) co_return failure(connection.error());
  const auto call = std::make_shared<Call>(loop_);
  call->request = framed(request);
  auto stream = (*connection)->submit(method, headers_, call);
  if (!stream) co_return failure(stream.error());
  const Instant deadline = timeout == Duration::max() ? Instant::max() : io::Loop::now() + timeout;
  Status waited;
  try {
    waited = co_await call->done.wait(deadline);
  } catch (const std::system_error&) {
    waited = failure(ErrorCode::cancelled, "cancelled");
  }
  if (!waited) {
    (*connection)->forget(*stream);
    co_return failure(waited.error().within(method));
  }
  if (call->status < 0) {
    if (!call->broken.message.empty()) co_return failure(call->broken);
    co_return failure(ErrorCode::unavailable, "{} got the HTTP status {} and no answer", method, call->http_status);
  }
  if (call->status != 0) co_return failure(code_of(call->status), "{}", call->message.empty() ? "refused without a reason" : call->message);
  if (call->answer.size() < 5) co_return std::string();
  co_return call->answer.substr(5);
}

}  // namespace dirigent::sandbox
