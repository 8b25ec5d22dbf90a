// SPDX-License-Identifier: MIT
//
// The breaker in front of a function, case by case, through HTTP: how many run, how many wait, and who is refused.
// Capacity is sandboxes times their concurrency limit; the queue limit counts waiters only.
#include "catch.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

// A function whose requests end when they are let go, one after another.
class Held {
 public:
  Held(std::uint32_t queue_depth, int sandboxes, std::uint32_t concurrency = 1)
      : depth_(queue_depth), concurrency_(concurrency) {
    set_sandboxes(sandboxes);
  }
  ~Held() { let_all_go(); }

  void set_sandboxes(int count) {
    while (static_cast<int>(sandboxes_.size()) < count) {
      sandboxes_.push_back(std::make_unique<FakeSandbox>([this](Wire& wire, FakeSandbox&) {
        while (read_request(wire)) {
          const int now = ++running_;
          for (int seen = running_max_; now > seen && !running_max_.compare_exchange_weak(seen, now);) {
          }
          wait_for_ticket();
          --running_;
          if (!wire.write(ok("done"))) return;
        }
      }));
    }
    std::vector<std::string> addresses;
    for (int i = 0; i < count; ++i) addresses.push_back(sandboxes_[static_cast<std::size_t>(i)]->address());
    plane.route("f", addresses, [this](FunctionRoute& route) {
      route.limits.queue_depth = depth_;
      route.limits.queue_timeout = 60s;
      for (RoutedSandbox& sandbox : route.sandboxes) sandbox.slots = concurrency_;
    });
  }
  std::unique_ptr<Wire> begin() {
    auto wire = std::make_unique<Wire>(Wire::connect(plane.address()));
    wire->write(get("/", "f"));
    return wire;
  }
  // So many run and so many wait.
  bool settles(std::uint64_t in_flight, std::uint64_t waiting) {
    return plane.eventually([&] { return plane.in_flight() == in_flight && plane.waiting() == waiting; });
  }
  void let_go(int count) {
    const std::lock_guard lock(mutex_);
    tickets_ += count;
    changed_.notify_all();
  }
  void let_all_go() { let_go(1'000'000); }
  [[nodiscard]] int running_max() const { return running_max_; }

  Plane plane;

 private:
  void wait_for_ticket() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [this] { return tickets_ > 0; });
    --tickets_;
  }
  std::uint32_t depth_;
  std::uint32_t concurrency_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int tickets_ = 0;
  std::atomic<int> running_{0};
  std::atomic<int> running_max_{0};
  std::vector<std::unique_ptr<FakeSandbox>> sandboxes_;
};

void check_done(Wire& wire) {
  const Response response = read_response(wire);
  CHECK(response.status == 200);
  CHECK(response.body == "done");
}
void check_queue_full(Wire& wire) {
  const Response response = read_response(wire);
  CHECK(response.status == 503);
  CHECK(response.header("X-Dirigent-Reason") == "queue-full");
  CHECK(response.body.find("\"ran\":false") != std::string::npos);
  CHECK_FALSE(response.header("Retry-After").empty());
}

}  // namespace

TEST_CASE("admission Q5, Q6: with one slot and one waiter, the next is refused until a place is free") {
  Held f(1, 1);
  auto running = f.begin();
  REQUIRE(f.settles(1, 0));
  auto waiting = f.begin();
  REQUIRE(f.settles(1, 1));
  auto refused = f.begin();
  check_queue_full(*refused);
  f.let_go(1);
  check_done(*running);
  REQUIRE(f.settles(1, 0));
  auto next = f.begin();
  REQUIRE(f.settles(1, 1));
  f.let_go(2);
  check_done(*waiting);
  check_done(*next);
}

TEST_CASE("admission Q7, Q17: of three at once, exactly one is refused and the others succeed") {
  Held f(1, 1);
  std::vector<std::unique_ptr<Wire>> wires;
  for (int i = 0; i < 3; ++i) wires.push_back(f.begin());
  REQUIRE(f.settles(1, 1));
  f.let_all_go();
  int done = 0;
  int refused = 0;
  for (auto& wire : wires) {
    const Response response = read_response(*wire);
    done += response.status == 200 ? 1 : 0;
    refused += response.header("X-Dirigent-Reason") == "queue-full" ? 1 : 0;
  }
  CHECK(done == 2);
  CHECK(refused == 1);
  CHECK(f.running_max() == 1);
}

TEST_CASE("admission Q8, Q13: without capacity both wait; with room for one both succeed, one after the other") {
  Held f(2, 0);
  auto first = f.begin();
  auto second = f.begin();
  REQUIRE(f.settles(0, 2));
  f.set_sandboxes(1);
  REQUIRE(f.settles(1, 1));
  f.let_go(1);
  check_done(*first);
  f.let_go(1);
  check_done(*second);
  CHECK(f.running_max() == 1);
}

TEST_CASE("admission Q9: as one ends and another comes, nobody is refused") {
  Held f(1, 1);
  auto running = f.begin();
  REQUIRE(f.settles(1, 0));
  auto waiting = f.begin();
  REQUIRE(f.settles(1, 1));
  for (int i = 0; i < 2; ++i) {
    f.let_go(1);
    check_done(*running);
    REQUIRE(f.settles(1, 0));
    running = std::move(waiting);
    waiting = f.begin();
    REQUIRE(f.settles(1, 1));
  }
  f.let_all_go();
  check_done(*running);
  check_done(*waiting);
}

TEST_CASE("admission Q10, Q11: who leaves while waiting frees a place, also for those that come later") {
  Held f(1, 0);
  for (int i = 0; i < 2; ++i) {
    auto leaving = f.begin();
    REQUIRE(f.settles(0, 1));
    leaving->close();
    REQUIRE(f.settles(0, 0));
  }
  f.set_sandboxes(1);
  auto first = f.begin();
  REQUIRE(f.settles(1, 0));
  auto second = f.begin();
  REQUIRE(f.settles(1, 1));
  auto third = f.begin();
  check_queue_full(*third);
  f.begin()->close();
  f.let_all_go();
  check_done(*first);
  check_done(*second);
  REQUIRE(f.settles(0, 0));
}

TEST_CASE("admission Q12, Q15: capacity follows the sandboxes, up and down") {
  Held f(10, 1);
  std::vector<std::unique_ptr<Wire>> wires;
  for (int i = 0; i < 4; ++i) wires.push_back(f.begin());
  REQUIRE(f.settles(1, 3));
  f.set_sandboxes(3);
  REQUIRE(f.settles(3, 1));
  CHECK(f.plane.eventually([&] { return f.running_max() == 3; }));
  f.let_all_go();
  for (auto& wire : wires) check_done(*wire);
  CHECK(f.running_max() == 3);  // never the fourth
  f.set_sandboxes(0);
  auto waiting = f.begin();
  REQUIRE(f.settles(0, 1));
  f.set_sandboxes(1);
  check_done(*waiting);
}

TEST_CASE("admission Q16: without a concurrency limit a sandbox is a gate: closed it holds everybody, open nobody") {
  Held f(10, 0, 0);
  auto cancelled = f.begin();
  REQUIRE(f.settles(0, 1));
  cancelled->close();
  REQUIRE(f.settles(0, 0));
  auto waiting = f.begin();
  REQUIRE(f.settles(0, 1));
  f.set_sandboxes(1);
  REQUIRE(f.settles(1, 0));
  std::vector<std::unique_ptr<Wire>> wires;
  for (int i = 0; i < 20; ++i) wires.push_back(f.begin());
  REQUIRE(f.settles(21, 0));
  f.let_all_go();
  check_done(*waiting);
  for (auto& wire : wires) check_done(*wire);
}

TEST_CASE("admission Q18: health is answered however full the queue is") {
  Held f(1, 1);
  auto running = f.begin();
  REQUIRE(f.settles(1, 0));
  auto waiting = f.begin();
  REQUIRE(f.settles(1, 1));
  CHECK(fetch(f.plane.address(), get("/healthz", "127.0.0.1")).status == 200);
  CHECK(f.settles(1, 1));
  f.let_all_go();
  check_done(*running);
  check_done(*waiting);
}
