// SPDX-License-Identifier: MIT
//
// PeerSession: one connection between two members, from the greeting on. The transport decides which of them it keeps.
#pragma once

#include <asio/steady_timer.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "consensus/convert.h"
#include "consensus/transport.h"
#include "rpc/connection.h"
#include "rpc/outbox.h"

namespace dirigent::consensus {

class PeerSession;

// Called from handlers of the loop, outside KJ events.
struct PeerSessionHooks {
  // Empty: the session is kept. Otherwise why not.
  std::function<std::string(std::shared_ptr<PeerSession> session, MemberId peer, std::string note)> greeted;
  std::function<void(PeerSession& session, std::vector<Message> messages)> received;
  std::function<void(PeerSession& session, std::string why)> ended;  // once
};

class PeerSession : public std::enable_shared_from_this<PeerSession> {
 public:
  PeerSession(io::Loop& loop, const RpcTransportOptions& options, PeerSessionHooks hooks);
  ~PeerSession() noexcept;

  // `expected`: whom it was connected to; 0 = it has been accepted, and the peer says who it is.
  void open(rpc::Socket socket, MemberId expected);
  void send(Message message);
  [[nodiscard]] bool is_greeted() const { return is_greeted_; }
  [[nodiscard]] MemberId peer() const { return peer_; }
  // Ends it without a call.
  void close();

  // Called by the RPC methods, inside KJ events.
  void read_batch(capnp::List<schema::PeerMessage>::Reader list);
  kj::Promise<std::string> greet(schema::PeerHello::Reader hello, kj::Maybe<schema::PeerSink::Client> sink);
  void write_hello(schema::PeerHello::Builder to, MemberId peer) const;

 private:
  using Box = rpc::Outbox<schema::PeerSink, Message>;
  struct Hello {
    std::uint32_t protocol = 0;
    MemberId from;
    MemberId to;
    std::string note;
  };
  static Hello read_hello(schema::PeerHello::Reader from);
  [[nodiscard]] std::string objection(const Hello& hello) const;
  void say_hello();
  void decide(Hello hello, std::string refusal);
  void end(std::string why);

  io::Loop& loop_;
  rpc::KjLoop& kj_;
  RpcTransportOptions options_;
  PeerSessionHooks hooks_;
  MemberId peer_;
  bool is_ours_ = false;  // we have opened the connection
  bool is_greeted_ = false;
  bool is_over_ = false;
  rpc::LinkCounters counters_;
  std::shared_ptr<rpc::Connection> connection_;
  std::shared_ptr<Box> outbox_;
  kj::Maybe<schema::PeerSink::Client> sink_;
  kj::Maybe<kj::Own<kj::PromiseFulfiller<std::string>>> verdict_;
  kj::Promise<void> greeting_ = nullptr;
  asio::steady_timer timer_;
};

}  // namespace dirigent::consensus
