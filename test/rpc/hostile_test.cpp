// SPDX-License-Identifier: MIT
//
// Peers that do not keep to the protocol: none of them harms the port or another session.
#include <capnp/serialize.h>

#include <algorithm>

#include <asio/connect.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read.hpp>
#include <asio/write.hpp>

#include "cluster_fixture.h"
#include "dirigent/base/random.h"
#include "rpc/connection.h"
#include "rpc/convert.h"
#include "rpc/dial.h"

namespace dirigent::rpc::test {
namespace {

using Tcp = asio::ip::tcp;

Tcp::endpoint endpoint_of(const Address& address) {
  const std::size_t colon = address.text.rfind(':');
  return {asio::ip::make_address(address.text.substr(0, colon)), static_cast<std::uint16_t>(std::stoi(address.text.substr(colon + 1)))};
}

// A bare connection to a server.
struct RawPeer {
  RawPeer(io::Loop& io_loop, const Address& address) : loop(io_loop), socket(io_loop.context()) { socket.connect(endpoint_of(address)); }
  void send(const std::string& bytes) {
    std::error_code error;
    asio::write(socket, asio::buffer(bytes), error);
  }
  // True when the server closes within the limit of a test.
  bool is_closed() {
    bool closed = false;
    std::string sink(1 << 16, 0);
    std::function<void()> read = [&] {
      socket.async_read_some(asio::buffer(sink), [&](std::error_code error, std::size_t) {
        if (error) {
          closed = true;
        } else {
          read();
        }
      });
    };
    read();
    const bool ended = turn_until(loop, [&] { return closed; });
    return ended;
  }
  io::Loop& loop;
  Tcp::socket socket;
};

std::string words32(std::initializer_list<std::uint32_t> numbers) {
  std::string bytes;
  for (const std::uint32_t number : numbers) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(number >> shift & 0xff);
  }
  return bytes;
}

// A server with one honest worker that must not notice anything.
struct Bystander {
  explicit Bystander(Duration silence_max = 3s) : server(serve(loop, control, kAnyPort, silence_max)), client(connect_worker(loop, to(*server, silence_max), worker)) {
    REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  }
  void require_well() {
    const std::size_t before = control.from_workers.size();
    client->send(usage(1));
    REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == before + 1; }));
    CHECK(worker.lost_why.empty());
    CHECK(control.lost.empty());
    CHECK(control.hellos == 1);
  }
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  std::unique_ptr<ControlServer> server;
  std::unique_ptr<WorkerClient> client;
};

TEST_CASE("hostile: what is not Cap'n Proto is cut off") {
  Bystander cluster;
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9), std::string(64, '\xff'),
                                   words32({0xffffffff, 0}), words32({512, 1})}) {
    RawPeer peer(cluster.loop, cluster.server->address());
    peer.send(bytes);
    CHECK(peer.is_closed());
    cluster.require_well();
  }
}

TEST_CASE("hostile: a message above the limit is cut off before it is stored") {
  Bystander cluster;
  for (const std::string& bytes : {words32({0, 0xffffffff}), words32({0, 64 * 1024 * 1024 / 8}), words32({2, 0x7fffffff, 0x7fffffff, 0x7fffffff})}) {
    RawPeer peer(cluster.loop, cluster.server->address());
    peer.send(bytes);
    CHECK(peer.is_closed());
    cluster.require_well();
  }
}

TEST_CASE("hostile: a well-framed message that is no RPC message ends its connection only") {
  Bystander cluster;
  // An empty root, a root pointer out of bounds, a far pointer into nowhere, and one word of noise.
  for (const std::string& bytes : {words32({0, 0}), words32({0, 1, 0x7ffffffc, 0xffffffff}), words32({0, 1, 2, 77}), words32({0, 1, 0xdeadbeef, 0xfeedface})}) {
    RawPeer peer(cluster.loop, cluster.server->address());
    peer.send(bytes);
    CHECK(peer.is_closed());
    cluster.require_well();
  }
}

TEST_CASE("hostile: a peer that stops in the middle of a message is closed as one that never says hello") {
  Bystander cluster(200ms);
  RawPeer truncated(cluster.loop, cluster.server->address());
  truncated.send(words32({0, 1000, 1, 2, 3}));
  RawPeer half_header(cluster.loop, cluster.server->address());
  half_header.send("ab");
  RawPeer silent(cluster.loop, cluster.server->address());
  RawPeer leaving(cluster.loop, cluster.server->address());
  leaving.send(words32({0, 1000, 1, 2, 3}));
  leaving.socket.shutdown(Tcp::socket::shutdown_send);
  CHECK(truncated.is_closed());
  CHECK(half_header.is_closed());
  CHECK(silent.is_closed());
  CHECK(leaving.is_closed());
  cluster.require_well();
}

TEST_CASE("hostile: a joined peer that sends an unknown state is sent away with the field's name") {
  Bystander cluster;
  KjLoop& kj = KjLoop::of(cluster.loop);
  // A worker that does not answer: enough for a capability.
  struct DeafWorker final : schema::Worker::Server {
    explicit DeafWorker(std::string& goodbye_words) : words(goodbye_words) {}
    kj::Promise<void> goodbye(GoodbyeContext context) override {
      words = context.getParams().getWhy().cStr();
      return kj::READY_NOW;
    }
    std::string& words;
  };
  std::string words;
  std::string ended;
  std::shared_ptr<Connection> connection;
  kj::Promise<void> calls = nullptr;
  const auto dial = Dial::start(cluster.loop, cluster.server->address(), 5s, [&](Result<Socket> socket) {
    REQUIRE(socket);
    connection = Connection::open(kj, std::move(*socket), "the server", Connection::Side::client, nullptr, 3s, ConnectionHooks{[&](std::string why) { ended = std::move(why); }});
    kj.inside("test", [&] {
      auto request = connection->bootstrap().castAs<schema::ControlPlane>().joinWorkerRequest();
      WorkerHello hello;
      hello.node.id.value = "evil";
      write(request.initHello(), hello);
      request.setWorker(kj::heap<DeafWorker>(words));
      calls = request.send()
                  .then([](auto&& response) {
                    auto deliver = response.getSession().deliverRequest();
                    SandboxStatus status;
                    status.function.value = "f";
                    auto list = deliver.initMessages(1);
                    write(list[0], WorkerMessage{SandboxChanged{status}});
                    list[0].getSandboxChanged().setState(static_cast<schema::SandboxState>(99));
                    return deliver.send().ignoreResult();
                  })
                  .eagerlyEvaluate(nullptr);
    });
  });
  REQUIRE(turn_until(cluster.loop, [&] { return cluster.control.lost.size() == 1; }));
  CHECK(cluster.control.lost[0].starts_with("the session broke the protocol: SandboxStatus.state is 99"));
  REQUIRE(turn_until(cluster.loop, [&] { return !ended.empty(); }));
  CHECK(words == cluster.control.lost[0]);
  kj.inside("test", [&] { calls = nullptr; });
  connection->close();
  cluster.control.lost.clear();
  CHECK(std::exchange(cluster.control.hellos, 1) == 2);
  cluster.require_well();
}

// Connects to a server through a tap that keeps what the client sends, and can stop passing bytes on.
struct Tap {
  Tap(io::Loop& io_loop, const Address& server) : loop(io_loop), acceptor(io_loop.context(), Tcp::endpoint(asio::ip::address_v4::loopback(), 0)), target(endpoint_of(server)) {
    accept();
  }
  [[nodiscard]] Address address() const { return {fmt::format("127.0.0.1:{}", acceptor.local_endpoint().port())}; }
  void accept() {
    acceptor.async_accept([this](std::error_code error, Tcp::socket socket) {
      if (error) return;
      auto near = std::make_shared<Tcp::socket>(std::move(socket));
      auto far = std::make_shared<Tcp::socket>(loop.context());
      far->connect(target);
      pass(near, far, true);
      pass(far, near, false);
      accept();
    });
  }
  void pass(std::shared_ptr<Tcp::socket> from, std::shared_ptr<Tcp::socket> to, bool keep) {
    auto bytes = std::make_shared<std::string>(1 << 16, 0);
    from->async_read_some(asio::buffer(*bytes), [this, from, to, keep, bytes](std::error_code error, std::size_t size) {
      if (error) {
        std::error_code ignored;
        to->close(ignored);
        return;
      }
      if (keep) kept.append(*bytes, 0, size);
      if (!blocked) asio::write(*to, asio::buffer(bytes->data(), size), error);
      pass(from, to, keep);
    });
  }
  io::Loop& loop;
  Tcp::acceptor acceptor;
  Tcp::endpoint target;
  std::string kept;
  bool blocked = false;
};

TEST_CASE("hostile: a network that swallows everything is noticed by both ends after the silence limit") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const auto server = serve(loop, control, kAnyPort, 1s);
  Tap tap(loop, server->address());
  const auto client = connect_worker(loop, ClientOptions{{tap.address()}, 1s, 1s}, worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  tap.blocked = true;
  const Instant start = io::Loop::now();
  REQUIRE(turn_until(loop, [&] { return worker.lost_why.size() == 1 && control.lost.size() >= 1; }));
  const Duration noticed = io::Loop::now() - start;
  CHECK(noticed > 500ms);
  // Whoever notices first closes, and the other one sees that.
  const bool by_silence = worker.lost_why[0].starts_with("nothing was heard from the peer for");
  CHECK((by_silence || worker.lost_why[0].find("clos") != std::string::npos));
  tap.blocked = false;
  REQUIRE(turn_until(loop, [&] { return worker.joins == 2; }));
}

TEST_CASE("hostile: a control plane that accepts and says nothing is given up after the silence limit") {
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  Tcp::acceptor mute(loop.context(), Tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  const auto server = serve(loop, control);
  ClientOptions options{{Address{fmt::format("127.0.0.1:{}", mute.local_endpoint().port())}, server->address()}, 1s, 200ms};
  const Instant start = io::Loop::now();
  const auto client = connect_worker(loop, options, worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  CHECK(io::Loop::now() - start >= 200ms);
  CHECK(worker.hellos == 2);
  CHECK(worker.lost_why.empty());
}

TEST_CASE("hostile: a recorded session with damaged bytes never harms the port") {
  const std::uint64_t seed = entropy_seed();
  INFO("seed " << seed);
  Rng rng(seed);
  std::string recorded;
  {
    QuietLog quiet;
    io::Loop loop;
    FakeControl control;
    FakeWorker worker;
    worker.me.sandboxes.resize(3);
    for (auto& status : worker.me.sandboxes) status.function.value = "f";
    const auto server = serve(loop, control);
    Tap tap(loop, server->address());
    const auto client = connect_worker(loop, ClientOptions{{tap.address()}, 1s, 3s}, worker);
    REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
    for (std::uint32_t i = 0; i < 20; ++i) client->send(usage(i));
    REQUIRE(turn_until(loop, [&] { return control.from_workers.size() == 20; }));
    recorded = tap.kept;
  }
  REQUIRE(recorded.size() > 500);
  QuietLog quiet;
  io::Loop loop;
  FakeControl control;
  FakeWorker worker;
  const auto server = serve(loop, control, kAnyPort, 500ms);
  const auto client = connect_worker(loop, to(*server, 500ms), worker);
  REQUIRE(turn_until(loop, [&] { return worker.joins == 1; }));
  for (int round = 0; round < 300; ++round) {
    std::string damaged = recorded;
    for (std::uint64_t flips = rng.below(8) + 1; flips > 0; --flips) damaged[rng.below(damaged.size())] = static_cast<char>(rng());
    if (rng.below(4) == 0) damaged.resize(rng.below(damaged.size()));
    RawPeer peer(loop, server->address());
    peer.send(damaged);
    for (int turns = 0; turns < 3; ++turns) loop.poll();
  }
  // All of them have left or were cut off; the honest worker is alone again.
  REQUIRE(turn_until(loop, [&] { return control.workers.size() == 1; }));
  client->send(WorkerLeaving{});
  REQUIRE(turn_until(loop, [&] {
    return std::any_of(control.from_workers.begin(), control.from_workers.end(), [](const auto& message) { return std::holds_alternative<WorkerLeaving>(message); });
  }));
  CHECK(worker.lost_why.empty());
}

}  // namespace
}  // namespace dirigent::rpc::test
