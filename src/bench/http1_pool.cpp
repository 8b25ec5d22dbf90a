// SPDX-License-Identifier: MIT
//
// HTTP/1.1: one request at a time on each connection, kept connections first in, last out.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <deque>

#include "bench/pool.h"
#include "bench/request_bytes.h"
#include "bench/response_reader.h"
#include "dirigent/io/loop.h"

namespace dirigent::bench {

namespace {

// A kept connection that was idle for longer is not used again: the server may be closing it just now.
constexpr Duration kIdleMax = 20s;
// After a connection could not be made, the next one is tried so much later.
constexpr Duration kConnectPause = 20ms;
constexpr std::size_t kReadBytes = 64 * 1024;

class Http1Pool;

class Connection final : public Pollable {
 public:
  enum class State { connecting, idle, busy, closed };

  Connection(Http1Pool& pool, io::FileDescriptor socket) : pool_(pool), socket_(std::move(socket)) {}
  void on_events(std::uint32_t events) override;
  void send(const Call& call);

  State state = State::connecting;
  Instant idle_since{};
  // In flight, in the order of their intended starts.
  Connection* earlier = nullptr;
  Connection* later = nullptr;
  std::size_t index = 0;  // in the pool
  [[nodiscard]] const Call& call() const { return call_; }
  [[nodiscard]] int fd() const { return socket_.get(); }
  void end(Fault fault);

 private:
  void on_connected();
  void write();
  void read(bool is_last);
  void complete(bool may_keep);

  Http1Pool& pool_;
  io::FileDescriptor socket_;
  Call call_;
  Instant head_at_{};
  std::string head_;  // of the request, when it is not the same for all calls
  std::string_view unsent_head_;
  std::string_view unsent_body_;
  ResponseReader reader_;
};

class Http1Pool final : public Pool {
 public:
  explicit Http1Pool(const PoolContext& context)
      : context_(context), bytes_(context.plan), to_head_(context.plan.request.method == "HEAD") {}

  void submit(const Call& call) override {
    while (!idle_.empty()) {
      Connection& connection = *idle_.back();
      idle_.pop_back();
      if (call.intended - connection.idle_since < kIdleMax) return start(connection, call);
      connection.end(Fault::none);
    }
    waiting_.push_back(call);
    open_if_needed(call.intended);
  }
  void flush() override {}
  void expire(Instant now) override {
    const Duration timeout = context_.plan.timeout;
    while (oldest_ != nullptr && oldest_->call().intended + timeout <= now) oldest_->end(Fault::timed_out);
    while (!waiting_.empty() && waiting_.front().intended + timeout <= now) fail_waiting(Fault::timed_out, now);
    if (now >= connect_again_) open_if_needed(now);
  }
  [[nodiscard]] std::optional<Instant> next_expiry() const override {
    std::optional<Instant> next;
    const auto take = [&](Instant when) { next = next ? std::min(*next, when) : when; };
    if (oldest_ != nullptr) take(oldest_->call().intended + context_.plan.timeout);
    if (!waiting_.empty()) {
      take(waiting_.front().intended + context_.plan.timeout);
      if (connecting_ < waiting_.size() && connections_.size() < context_.connections) take(connect_again_);
    }
    return next;
  }
  [[nodiscard]] std::uint64_t opened() const override { return opened_; }

  // --- for the connections ---
  [[nodiscard]] const PoolContext& context() const { return context_; }
  [[nodiscard]] const RequestBytes& bytes() const { return bytes_; }
  [[nodiscard]] bool to_head() const { return to_head_; }
  char* buffer() { return buffer_.data(); }

  void start(Connection& connection, const Call& call) {
    connection.state = Connection::State::busy;
    connection.earlier = newest_;
    connection.later = nullptr;
    (newest_ != nullptr ? newest_->later : oldest_) = &connection;
    newest_ = &connection;
    connection.send(call);
  }
  void unlink(Connection& connection) {
    (connection.earlier != nullptr ? connection.earlier->later : oldest_) = connection.later;
    (connection.later != nullptr ? connection.later->earlier : newest_) = connection.earlier;
  }
  // The connection can take a call.
  void free(Connection& connection, Instant now) {
    connection.state = Connection::State::idle;
    connection.idle_since = now;
    if (waiting_.empty()) {
      idle_.push_back(&connection);
      return;
    }
    const Call call = waiting_.front();
    waiting_.pop_front();
    start(connection, call);
  }
  void connected() { --connecting_; }
  void connect_failed() {
    --connecting_;
    const Instant now = io::Loop::now();
    connect_again_ = now + kConnectPause;
    // One call for each connection that was not made, so that a dead server is seen at once and not after the timeout.
    if (!waiting_.empty()) fail_waiting(Fault::connect_failed, now);
  }
  void remove(Connection& connection) {
    if (connection.state == Connection::State::idle) std::erase(idle_, &connection);
    const std::size_t index = connection.index;
    auto owned = std::move(connections_[index]);
    if (index + 1 < connections_.size()) {
      connections_[index] = std::move(connections_.back());
      connections_[index]->index = index;
    }
    connections_.pop_back();
    context_.poller.retire(std::move(owned));
  }
  void open_if_needed(Instant now) {
    while (connecting_ < waiting_.size() && connections_.size() < context_.connections && now >= connect_again_) {
      auto socket = start_connect(context_.address);
      ++connecting_;
      if (!socket) {
        connect_failed();
        return;
      }
      ++opened_;
      auto connection = std::make_unique<Connection>(*this, std::move(*socket));
      connection->index = connections_.size();
      Connection& added = *connection;
      connections_.push_back(std::move(connection));
      context_.poller.add(added.fd(), added);
    }
  }
  void completed(const Call& call, const Answer& answer) { context_.owner.completed(call, answer); }

 private:
  void fail_waiting(Fault fault, Instant now) {
    const Call call = waiting_.front();
    waiting_.pop_front();
    Answer answer;
    answer.fault = fault;
    answer.end_at = now;
    completed(call, answer);
  }

  const PoolContext context_;
  const RequestBytes bytes_;
  const bool to_head_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> idle_;
  std::deque<Call> waiting_;
  std::size_t connecting_ = 0;
  Instant connect_again_{};
  Connection* oldest_ = nullptr;  // of those in flight
  Connection* newest_ = nullptr;
  std::uint64_t opened_ = 0;
  std::array<char, kReadBytes> buffer_;
};

void Connection::on_events(std::uint32_t events) {
  if (state == State::closed) return;
  if (state == State::connecting) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) on_connected();
    return;
  }
  if ((events & EPOLLOUT) != 0 && (!unsent_head_.empty() || !unsent_body_.empty())) write();
  const bool is_last = (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0;
  if (state != State::closed && (is_last || (events & EPOLLIN) != 0)) read(is_last);
}

void Connection::on_connected() {
  if (connect_error(socket_.get()) == 0) {
    pool_.connected();
    pool_.free(*this, io::Loop::now());
    return;
  }
  state = State::closed;
  pool_.remove(*this);
  pool_.connect_failed();
}

void Connection::send(const Call& call) {
  call_ = call;
  reader_.begin(pool_.to_head());
  head_at_ = Instant{};
  if (pool_.bytes().has_run_time()) {
    head_.clear();
    pool_.bytes().append_head(head_, call.target, call.run_time);
    unsent_head_ = head_;
  } else {
    unsent_head_ = pool_.bytes().head(call.target);
  }
  unsent_body_ = pool_.context().plan.request.body;
  call_.sent = io::Loop::now();
  write();
}

void Connection::write() {
  while (!unsent_head_.empty() || !unsent_body_.empty()) {
    ssize_t sent = 0;
    if (unsent_body_.empty()) {
      sent = ::send(socket_.get(), unsent_head_.data(), unsent_head_.size(), MSG_NOSIGNAL);
    } else {
      iovec parts[2] = {{const_cast<char*>(unsent_head_.data()), unsent_head_.size()},
                        {const_cast<char*>(unsent_body_.data()), unsent_body_.size()}};
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    }
    if (sent < 0) {
      if (errno == EINTR) continue;
      // A peer that has closed may still have answered: what there is to read decides.
      if (errno != EAGAIN) unsent_head_ = unsent_body_ = {};
      return;
    }
    const auto of_head = std::min(unsent_head_.size(), static_cast<std::size_t>(sent));
    unsent_head_.remove_prefix(of_head);
    unsent_body_.remove_prefix(static_cast<std::size_t>(sent) - of_head);
  }
}

// `is_last`: the peer has closed; everything up to the end has to be read now, because the epoll will not tell again.
void Connection::read(bool is_last) {
  for (;;) {
    const ssize_t size = ::recv(socket_.get(), pool_.buffer(), kReadBytes, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      if (state == State::busy) reader_.finish();
      if (state == State::busy && reader_.state() == ResponseReader::State::done) complete(false);
      else end(Fault::connection_ended);
      return;
    }
    if (state != State::busy) return end(Fault::none);  // an answer that nobody asked for
    const std::string_view bytes(pool_.buffer(), static_cast<std::size_t>(size));
    const std::size_t used = reader_.feed(bytes);
    if (reader_.state() == ResponseReader::State::failed) return end(Fault::bad_response);
    if (head_at_ == Instant{} && reader_.has_head()) head_at_ = io::Loop::now();
    if (reader_.state() == ResponseReader::State::done)
      return complete(!is_last && used == bytes.size() && unsent_head_.empty() && unsent_body_.empty());
    if (!is_last && bytes.size() < kReadBytes) return;
  }
}

void Connection::complete(bool may_keep) {
  Answer answer;
  answer.end_at = io::Loop::now();
  answer.head_at = head_at_ == Instant{} ? answer.end_at : head_at_;
  answer.status = reader_.status();
  answer.timing = reader_.timing();
  answer.reason = reader_.reason();
  answer.body = reader_.body();
  answer.body_bytes = reader_.body_bytes();
  pool_.unlink(*this);
  pool_.completed(call_, answer);
  if (may_keep && reader_.keeps_connection()) {
    pool_.free(*this, answer.end_at);
    return;
  }
  state = State::closed;
  pool_.remove(*this);
  pool_.open_if_needed(answer.end_at);
}

void Connection::end(Fault fault) {
  if (state == State::busy) {
    Answer answer;
    answer.fault = fault;
    answer.end_at = io::Loop::now();
    answer.head_at = head_at_;
    pool_.unlink(*this);
    pool_.completed(call_, answer);
  }
  pool_.remove(*this);
  state = State::closed;
  pool_.open_if_needed(io::Loop::now());
}

}  // namespace

std::unique_ptr<Pool> make_http1_pool(const PoolContext& context) { return std::make_unique<Http1Pool>(context); }

}  // namespace dirigent::bench
