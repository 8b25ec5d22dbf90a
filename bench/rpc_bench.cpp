// SPDX-License-Identifier: MIT
//
// Question: how many calls per second does one connection carry, and how long does a call take (microseconds, p50 and
// p99), on our event port and wire, compared with plain KJ in the same run?
//
// A 64-byte echo over TCP loopback, client and server in a thread each, with 1 and with 32 calls in flight. Both variants
// use the same schema, the same RPC library and the same number of calls; the variants take turns, so that what else the
// machine does meets both.
//
// usage: rpc_bench [CALLS]
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <thread>
#include <vector>

#include <asio/basic_socket_acceptor.hpp>
#include <asio/ip/tcp.hpp>

#include "dirigent/io/loop.h"
#include "rpc/connection.h"
#include "rpc/dial.h"
#include "rpc_bench.capnp.h"

namespace dirigent {
namespace {

using Clock = std::chrono::steady_clock;
using Echo = bench_schema::Echo;

constexpr std::size_t kPayloadBytes = 64;

class EchoServer final : public Echo::Server {
 public:
  kj::Promise<void> echo(EchoContext context) override {
    const auto bytes = context.getParams().getBytes();
    context.getResults(capnp::MessageSize{16, 0}).setBytes(bytes);
    return kj::READY_NOW;
  }
};

struct Figures {
  double calls_per_second = 0;
  double p50_us = 0;
  double p99_us = 0;
};

// Keeps `depth` calls in flight until `calls` have been answered; the same code drives both variants.
class Driver {
 public:
  Driver(Echo::Client echo, std::size_t depth, std::size_t calls) : echo_(kj::mv(echo)), depth_(depth), calls_(calls), tasks_(errors_) { latencies_us_.reserve(calls); }

  // Inside KJ. `done` is called in the event of the last answer.
  void start(std::function<void()> done) {
    done_ = std::move(done);
    begin_ = Clock::now();
    for (std::size_t i = 0; i < depth_; ++i) call();
  }

  Figures figures() {
    const double seconds = std::chrono::duration<double>(end_ - begin_).count();
    std::sort(latencies_us_.begin(), latencies_us_.end());
    return {static_cast<double>(latencies_us_.size()) / seconds, latencies_us_[latencies_us_.size() / 2], latencies_us_[latencies_us_.size() * 99 / 100]};
  }

 private:
  struct Errors final : kj::TaskSet::ErrorHandler {
    void taskFailed(kj::Exception&& exception) override {
      std::fprintf(stderr, "rpc_bench: a call failed: %s\n", exception.getDescription().cStr());
      std::exit(1);
    }
  };

  void call() {
    ++started_;
    auto request = echo_.echoRequest(capnp::MessageSize{16, 0});
    request.setBytes(kj::arrayPtr(payload_, sizeof payload_));
    tasks_.add(request.send().then([this, sent = Clock::now()](auto&& response) {
      if (response.getBytes().size() != kPayloadBytes) std::abort();
      end_ = Clock::now();
      latencies_us_.push_back(std::chrono::duration<double, std::micro>(end_ - sent).count());
      if (started_ < calls_) {
        call();
      } else if (latencies_us_.size() == calls_) {
        done_();
      }
    }));
  }

  Echo::Client echo_;
  std::size_t depth_;
  std::size_t calls_;
  std::size_t started_ = 0;
  kj::byte payload_[kPayloadBytes] = {};
  std::vector<double> latencies_us_;
  std::function<void()> done_;
  Clock::time_point begin_;
  Clock::time_point end_;
  Errors errors_;
  kj::TaskSet tasks_;
};

// --- plain KJ -----------------------------------------------------------------------------------------------------

Figures measure_kj(std::size_t depth, std::size_t calls) {
  std::promise<unsigned> port;
  std::thread server([&port] {
    auto io = kj::setupAsyncIo();
    auto listener = io.provider->getNetwork().parseAddress("127.0.0.1").wait(io.waitScope)->listen();
    port.set_value(listener->getPort());
    auto stream = listener->accept().wait(io.waitScope);
    capnp::TwoPartyVatNetwork network(*stream, capnp::rpc::twoparty::Side::SERVER);
    auto rpc = capnp::makeRpcServer(network, capnp::Capability::Client(kj::heap<EchoServer>()));
    network.onDisconnect().wait(io.waitScope);
  });
  Figures figures;
  {
    auto io = kj::setupAsyncIo();
    auto stream = io.provider->getNetwork().parseAddress("127.0.0.1", port.get_future().get()).wait(io.waitScope)->connect().wait(io.waitScope);
    capnp::TwoPartyVatNetwork network(*stream, capnp::rpc::twoparty::Side::CLIENT);
    auto rpc = capnp::makeRpcClient(network);
    capnp::MallocMessageBuilder message(8);
    auto vat = message.initRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    auto finished = kj::newPromiseAndFulfiller<void>();
    Driver driver(rpc.bootstrap(vat).castAs<Echo>(), depth, calls);
    driver.start([&finished] { finished.fulfiller->fulfill(); });
    finished.promise.wait(io.waitScope);
    figures = driver.figures();
  }
  server.join();
  return figures;
}

// --- ours ---------------------------------------------------------------------------------------------------------

Figures measure_ours(std::size_t depth, std::size_t calls) {
  io::Loop server_loop;
  auto listener = rpc::listen_at(server_loop, rpc::Address{"127.0.0.1:0"});
  if (!listener) {
    std::fprintf(stderr, "rpc_bench: %s\n", listener.error().message.c_str());
    std::exit(1);
  }
  std::shared_ptr<rpc::Connection> served;
  listener->acceptor.async_accept([&](std::error_code error, rpc::Socket socket) {
    if (error) std::abort();
    socket.non_blocking(true);
    rpc::tune(socket, 10s);
    rpc::KjLoop& kj = rpc::KjLoop::of(server_loop);
    kj::Maybe<capnp::Capability::Client> offered;
    kj.inside("bench", [&] { offered = capnp::Capability::Client(kj::heap<EchoServer>()); });
    served = rpc::Connection::open(kj, std::move(socket), "the client", rpc::Connection::Side::server, kj::mv(offered), 10s,
                                   rpc::ConnectionHooks{[&](std::string) {
                                                          served->close();
                                                          server_loop.stop();
                                                        }});
  });
  std::thread server([&] { server_loop.run(); });

  Figures figures;
  {
    io::Loop loop;
    rpc::KjLoop& kj = rpc::KjLoop::of(loop);
    std::shared_ptr<rpc::Connection> connection;
    std::unique_ptr<Driver> driver;
    const auto dial = rpc::Dial::start(loop, listener->address, 5s, [&](Result<rpc::Socket> socket) {
      if (!socket) std::abort();
      rpc::tune(*socket, 10s);
      connection = rpc::Connection::open(kj, std::move(*socket), "the server", rpc::Connection::Side::client, nullptr, 10s, {});
      kj.inside("bench", [&] {
        driver = std::make_unique<Driver>(connection->bootstrap().castAs<Echo>(), depth, calls);
        driver->start([&] { loop.stop(); });
      });
    });
    loop.run();
    figures = driver->figures();
    kj.inside("bench", [&] { driver.reset(); });
    connection->close();
  }
  server.join();
  return figures;
}

double print(const char* variant, std::size_t depth, const Figures& figures) {
  std::printf("bench=rpc variant=%s transport=tcp payload_bytes=%zu depth=%zu calls_per_s=%.0f p50_us=%.1f p99_us=%.1f\n", variant, kPayloadBytes, depth,
              figures.calls_per_second, figures.p50_us, figures.p99_us);
  return figures.calls_per_second;
}

}  // namespace
}  // namespace dirigent

int main(int argc, char** argv) {
  using namespace dirigent;
  const std::size_t calls = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 200'000;
  if (calls < 100) {
    std::fprintf(stderr, "usage: rpc_bench [CALLS], at least 100\n");
    return 2;
  }
  for (const std::size_t depth : {std::size_t{1}, std::size_t{32}}) {
    const std::size_t here = depth == 1 ? calls / 10 : calls;
    // The best of three rounds each, turn and turn about.
    Figures kj_best;
    Figures ours_best;
    for (int round = 0; round < 3; ++round) {
      const Figures kj = measure_kj(depth, here);
      const Figures ours = measure_ours(depth, here);
      if (kj.calls_per_second > kj_best.calls_per_second) kj_best = kj;
      if (ours.calls_per_second > ours_best.calls_per_second) ours_best = ours;
    }
    const double plain = print("kj", depth, kj_best);
    const double own = print("dirigent", depth, ours_best);
    std::printf("bench=rpc depth=%zu ratio=%.2f\n", depth, own / plain);
  }
  return 0;
}
