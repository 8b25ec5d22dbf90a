// SPDX-License-Identifier: MIT
//
// The control plane's RPC port: accepts connections and keeps the sessions.
#include <asio/steady_timer.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include <unordered_map>
#include <utility>

#include "dirigent/base/log.h"
#include "rpc/dial.h"
#include "rpc/session.h"

#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

namespace dirigent::rpc {

namespace {

constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
// Far more than a cluster has nodes; a bound for whoever opens connections and forgets them.
constexpr std::size_t kSessionsMax = 65'536;
// When the process has no descriptor left, trying again at once would only spin.
constexpr Duration kAcceptPause = 100ms;

class Server final : public SessionOwner, public std::enable_shared_from_this<Server> {
 public:
  Server(io::Loop& loop, ControlServerOptions options, Listener listener, ControlHandler& handler)
      : loop_(loop), options_(std::move(options)), listener_(std::move(listener)), handler_(handler), pause_(loop.context()) {
    if (!listener_.unix_path.empty() && ::stat(listener_.unix_path.c_str(), &unix_file_) != 0) listener_.unix_path.clear();
  }

  void accept() {
    listener_.acceptor.async_accept([weak = weak_from_this()](std::error_code error, Socket socket) {
      auto self = weak.lock();
      if (!self || self->closed_) return;
      if (!error) {
        self->accepted(std::move(socket));
        self->accept();
        return;
      }
      log_error("rpc", "cannot accept a connection on {}: {} (raise the limit of open files?)", self->options_.listen.text, error.message());
      self->pause_.expires_after(kAcceptPause);
      self->pause_.async_wait([weak](std::error_code cancelled) {
        auto again = weak.lock();
        if (!cancelled && again && !again->closed_) again->accept();
      });
    });
  }

  [[nodiscard]] Address address() const { return listener_.address; }
  [[nodiscard]] LinkCounters counters_now() const { return counters_; }

  std::shared_ptr<Session> find(SessionId id) const {
    const auto found = sessions_.find(id);
    return found == sessions_.end() ? nullptr : found->second;
  }

  void close() {
    if (std::exchange(closed_, true)) return;
    std::error_code ignored;
    listener_.acceptor.close(ignored);
    pause_.cancel();
    // Only our own file: another process may have replaced it meanwhile.
    struct stat now {};
    if (!listener_.unix_path.empty() && ::stat(listener_.unix_path.c_str(), &now) == 0 && now.st_ino == unix_file_.st_ino && now.st_dev == unix_file_.st_dev) {
      ::unlink(listener_.unix_path.c_str());
    }
    for (auto& [id, session] : std::exchange(sessions_, {})) session->close();
  }

  Status joined(SessionId session, std::variant<WorkerHello, DataPlaneHello> hello) override {
    if (auto* worker = std::get_if<WorkerHello>(&hello)) return handler_.worker_joined(session, std::move(*worker));
    const auto status = handler_.data_plane_joined(session, std::get<DataPlaneHello>(std::move(hello)));
    if (status) data_planes_.emplace(session, true);
    return status;
  }
  void said(SessionId session, std::vector<WorkerMessage> messages) override { handler_.worker_said(session, std::move(messages)); }
  void said(SessionId session, std::vector<DataPlaneMessage> messages) override { handler_.data_plane_said(session, std::move(messages)); }
  void over(SessionId session, bool was_joined, std::string why) override {
    const bool is_data_plane = data_planes_.erase(session) > 0;
    if (!was_joined) return;
    if (is_data_plane) {
      handler_.data_plane_lost(session, std::move(why));
    } else {
      handler_.worker_lost(session, std::move(why));
    }
  }
  void gone(SessionId session) override { sessions_.erase(session); }
  LinkCounters& counters() override { return counters_; }
  [[nodiscard]] Term term() const override { return options_.term; }
  [[nodiscard]] const std::string& leader() const override { return leader_; }
  void set_leader(Term term, std::string address) {
    options_.term = term;
    leader_ = std::move(address);
  }
  [[nodiscard]] bool closed() const override { return closed_; }

 private:
  void accepted(Socket socket) {
    std::error_code ignored;
    socket.non_blocking(true, ignored);
    if (sessions_.size() >= kSessionsMax) {
      log_warn("rpc", "closed the connection of {}: {} sessions are open, which is the limit", peer_name(socket), kSessionsMax);
      return;
    }
    const SessionId id{++last_id_};
    auto session = std::make_shared<Session>(loop_, weak_from_this(), id, options_);
    sessions_.emplace(id, session);
    session->open(std::move(socket));
  }

  io::Loop& loop_;
  ControlServerOptions options_;
  Listener listener_;
  struct stat unix_file_ {};
  ControlHandler& handler_;
  asio::steady_timer pause_;
  std::unordered_map<SessionId, std::shared_ptr<Session>> sessions_;
  std::unordered_map<SessionId, bool> data_planes_;
  std::uint64_t last_id_ = 0;
  LinkCounters counters_;
  std::string leader_;
  bool closed_ = false;
};

io::Task<LogAnswer> ask_logs(std::shared_ptr<Server> server, SessionId worker, LogQuery query, Duration timeout) {
  const auto session = server->find(worker);
  const auto pending = session ? session->ask_logs(query, timeout) : nullptr;
  if (!pending) co_return failure(ErrorCode::not_found, "cannot ask session {} for logs: there is no such worker", worker.value);
  if (!pending->result) {
    std::error_code woken;
    co_await pending->timer.async_wait(asio::redirect_error(use_task, woken));
    if (!pending->result && woken) pending->result = failure(ErrorCode::cancelled, "the question for logs was cancelled");
  }
  pending->drop_call();
  if (!pending->result) {
    co_return failure(ErrorCode::timed_out, "the worker did not answer the question for logs within {} (is its node overloaded?)", format_duration(timeout));
  }
  co_return std::move(*pending->result);
}

class ControlServerHandle final : public ControlServer {
 public:
  explicit ControlServerHandle(std::shared_ptr<Server> server) : server_(std::move(server)) {}
  ~ControlServerHandle() override { server_->close(); }

  [[nodiscard]] Address address() const override { return server_->address(); }
  void send(SessionId session, WorkerOrder order) override {
    if (const auto found = server_->find(session)) found->send(std::move(order));
  }
  void send(SessionId session, DataPlaneOrder order) override {
    if (const auto found = server_->find(session)) found->send(std::move(order));
  }
  io::Task<LogAnswer> logs(SessionId worker, LogQuery query, Duration timeout) override { return ask_logs(server_, worker, query, timeout); }
  void disconnect(SessionId session, std::string why) override {
    if (const auto found = server_->find(session)) found->disconnect(std::move(why));
  }
  [[nodiscard]] Instant last_heard(SessionId session) const override {
    const auto found = server_->find(session);
    return found ? found->last_heard() : Instant{};
  }
  void set_leader(Term term, std::string address) override { server_->set_leader(term, std::move(address)); }
  [[nodiscard]] LinkCounters counters() const override { return server_->counters_now(); }
  void close() override { server_->close(); }

 private:
  std::shared_ptr<Server> server_;
};

}  // namespace

Result<std::unique_ptr<ControlServer>> serve_control(io::Loop& loop, ControlServerOptions options, ControlHandler& handler) {
  auto listener = listen_at(loop, options.listen);
  if (!listener) return failure(listener.error());
  auto server = std::make_shared<Server>(loop, std::move(options), std::move(*listener), handler);
  server->accept();
  return std::make_unique<ControlServerHandle>(std::move(server));
}

}  // namespace dirigent::rpc
