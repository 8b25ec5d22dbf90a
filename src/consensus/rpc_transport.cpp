// SPDX-License-Identifier: MIT
//
// One connection for each pair of members: the smaller id connects, the other one accepts. A new connection of a peer
// replaces the old one, whose end has not been noticed yet.
#include <asio/steady_timer.hpp>

#include <map>
#include <set>
#include <utility>

#include "consensus/peer_session.h"
#include "consensus/transport.h"
#include "dirigent/base/log.h"
#include "rpc/dial.h"

namespace dirigent::consensus {

namespace {

// More than a group has members; a bound for whoever opens connections and forgets them.
constexpr std::size_t kStrangersMax = 64;

class RpcTransport final : public Transport, public std::enable_shared_from_this<RpcTransport> {
 public:
  RpcTransport(io::Loop& loop, RpcTransportOptions options, rpc::Listener listener)
      : loop_(loop), options_(std::move(options)), listener_(std::move(listener)), pause_(loop.context()) {}
  ~RpcTransport() override { close(); }

  void start(TransportHooks hooks) override {
    hooks_ = std::move(hooks);
    accept();
  }

  void follow(const std::vector<Member>& members) override {
    std::set<MemberId> wanted;
    for (const auto& member : members) {
      if (member.id == options_.self) continue;
      wanted.insert(member.id);
      Link& link = links_.try_emplace(member.id, loop_).first->second;
      const bool is_new = link.address != member.address;
      link.address = member.address;
      if (is_new && !link.session && options_.self < member.id) dial(member.id, link);
    }
    for (auto link = links_.begin(); link != links_.end();) {
      // Who has no address came to us by itself: it may be about to be added.
      if (wanted.count(link->first) > 0 || link->second.address.empty()) {
        ++link;
        continue;
      }
      drop(link->second);
      link = links_.erase(link);
    }
  }

  void send(Message message) override {
    const auto link = links_.find(message.to);
    if (link != links_.end() && link->second.session) link->second.session->send(std::move(message));
  }

  [[nodiscard]] std::string address() const override { return listener_.address.text; }

  void close() override {
    if (std::exchange(closed_, true)) return;
    hooks_ = {};
    std::error_code ignored;
    listener_.acceptor.close(ignored);
    pause_.cancel();
    for (auto& [id, link] : links_) drop(link);
    for (const auto& stranger : std::exchange(strangers_, {})) stranger->close();
  }

 private:
  struct Link {
    explicit Link(io::Loop& loop) : timer(loop.context()) {}
    std::string address;
    std::shared_ptr<rpc::Dial> dial;
    std::shared_ptr<PeerSession> dialled;  // not greeted yet
    std::shared_ptr<PeerSession> session;  // greeted
    asio::steady_timer timer;
    std::string complaint;
  };

  void accept() {
    listener_.acceptor.async_accept([weak = weak_from_this()](std::error_code error, rpc::Socket socket) {
      auto self = weak.lock();
      if (!self || self->closed_) return;
      if (!error) {
        self->accepted(std::move(socket));
        self->accept();
        return;
      }
      log_error("consensus", "cannot accept a connection on {}: {} (raise the limit of open files?)", self->address(), error.message());
      self->pause_.expires_after(100ms);
      self->pause_.async_wait([weak](std::error_code cancelled) {
        auto again = weak.lock();
        if (!cancelled && again && !again->closed_) again->accept();
      });
    });
  }

  void accepted(rpc::Socket socket) {
    std::error_code ignored;
    socket.non_blocking(true, ignored);
    if (strangers_.size() >= kStrangersMax) return;
    auto session = make_session(MemberId{});
    strangers_.insert(session);
    session->open(std::move(socket), MemberId{});
  }

  std::shared_ptr<PeerSession> make_session(MemberId dialled) {
    PeerSessionHooks hooks;
    const auto weak = weak_from_this();
    hooks.greeted = [weak](std::shared_ptr<PeerSession> session, MemberId peer, std::string note) -> std::string {
      auto self = weak.lock();
      return self && !self->closed_ ? self->greeted(std::move(session), peer, std::move(note)) : "this member is shutting down";
    };
    hooks.received = [weak](PeerSession& session, std::vector<Message> messages) {
      auto self = weak.lock();
      if (!self || self->closed_) return;
      const auto link = self->links_.find(session.peer());
      if (link == self->links_.end() || link->second.session.get() != &session) return;
      for (auto& message : messages) {
        if (self->hooks_.received) self->hooks_.received(std::move(message));
      }
    };
    hooks.ended = [weak, dialled](PeerSession& session, std::string why) {
      if (auto self = weak.lock()) self->ended(session, dialled, std::move(why));
    };
    return std::make_shared<PeerSession>(loop_, options_, std::move(hooks));
  }

  void dial(MemberId id, Link& link) {
    link.dial = rpc::Dial::start(loop_, {link.address}, options_.connect_timeout, [weak = weak_from_this(), id](Result<rpc::Socket> socket) {
      auto self = weak.lock();
      if (!self || self->closed_) return;
      const auto found = self->links_.find(id);
      if (found == self->links_.end()) return;
      found->second.dial.reset();
      if (!socket) {
        self->dial_later(id, found->second, socket.error().message);
        return;
      }
      found->second.dialled = self->make_session(id);
      found->second.dialled->open(std::move(*socket), id);
    });
  }

  void dial_later(MemberId id, Link& link, std::string why) {
    if (link.complaint != why) log_warn("consensus", "member {} at {} is not connected: {}; trying again", id, link.address, why);
    link.complaint = std::move(why);
    link.timer.expires_after(options_.retry);
    link.timer.async_wait([weak = weak_from_this(), id](std::error_code error) {
      auto self = weak.lock();
      if (error || !self || self->closed_) return;
      const auto found = self->links_.find(id);
      if (found != self->links_.end() && !found->second.session && !found->second.dial && !found->second.dialled) self->dial(id, found->second);
    });
  }

  std::string greeted(std::shared_ptr<PeerSession> session, MemberId peer, std::string note) {
    // A member that we do not know of yet: its addition is on the way to us, or its removal to it.
    Link& link = links_.try_emplace(peer, loop_).first->second;
    strangers_.erase(session);
    if (link.dialled == session) link.dialled.reset();
    if (link.session) {
      std::exchange(link.session, nullptr)->close();
      if (hooks_.lost) hooks_.lost(peer, "replaced by a new connection");
    }
    link.session = std::move(session);
    link.complaint.clear();
    if (hooks_.found) hooks_.found(peer, std::move(note));
    return "";
  }

  void ended(PeerSession& session, MemberId dialled, std::string why) {
    const auto self = shared_from_this();
    for (auto stranger = strangers_.begin(); stranger != strangers_.end(); ++stranger) {
      if (stranger->get() != &session) continue;
      loop_.post([keep = *stranger] {});
      strangers_.erase(stranger);
      break;
    }
    const auto found = links_.find(session.peer());
    if (closed_ || found == links_.end()) return;
    Link& link = found->second;
    if (link.session.get() == &session) {
      loop_.post([keep = std::exchange(link.session, nullptr)] {});
      log_info("consensus", "the connection to member {} is lost: {}", found->first, why);
      const MemberId peer = found->first;
      if (hooks_.lost) hooks_.lost(peer, why);
      const auto still = links_.find(peer);
      if (still == links_.end()) return;
      if (still->second.address.empty()) {
        links_.erase(still);
      } else if (options_.self < peer && !still->second.session) {
        dial_later(peer, still->second, std::move(why));
      }
    } else if (link.dialled.get() == &session) {
      loop_.post([keep = std::exchange(link.dialled, nullptr)] {});
      if (!link.session) dial_later(dialled, link, std::move(why));
    }
  }

  static void drop(Link& link) {
    link.timer.cancel();
    if (auto dial = std::exchange(link.dial, nullptr)) dial->cancel();
    if (auto session = std::exchange(link.dialled, nullptr)) session->close();
    if (auto session = std::exchange(link.session, nullptr)) session->close();
  }

  io::Loop& loop_;
  RpcTransportOptions options_;
  rpc::Listener listener_;
  TransportHooks hooks_;
  asio::steady_timer pause_;
  std::map<MemberId, Link> links_;
  std::set<std::shared_ptr<PeerSession>> strangers_;
  bool closed_ = false;
};

// The transport is shared with its pending handlers.
class Handle final : public Transport {
 public:
  explicit Handle(std::shared_ptr<RpcTransport> transport) : transport_(std::move(transport)) {}
  ~Handle() override { transport_->close(); }
  void start(TransportHooks hooks) override { transport_->start(std::move(hooks)); }
  void follow(const std::vector<Member>& members) override { transport_->follow(members); }
  void send(Message message) override { transport_->send(std::move(message)); }
  [[nodiscard]] std::string address() const override { return transport_->address(); }
  void close() override { transport_->close(); }

 private:
  std::shared_ptr<RpcTransport> transport_;
};

}  // namespace

Result<std::unique_ptr<Transport>> rpc_transport(io::Loop& loop, RpcTransportOptions options) {
  auto listener = rpc::listen_at(loop, {options.listen});
  if (!listener) return failure(listener.error());
  return std::make_unique<Handle>(std::make_shared<RpcTransport>(loop, std::move(options), std::move(*listener)));
}

}  // namespace dirigent::consensus
