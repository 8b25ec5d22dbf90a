// SPDX-License-Identifier: MIT
#include <random>
#include <set>

#include "catch.h"
#include "dirigent/base/random.h"
#include "roles/data/body_decoder.h"
#include "roles/data/naming.h"
#include "roles/data/problem.h"
#include "roles/data/metrics.h"
#include "dirigent/base/timer_wheel.h"

using namespace dirigent;
using namespace dirigent::roles;

namespace {
std::string decode_all(BodyDecoder& decoder, std::string bytes, std::size_t piece) {
  std::string payload;
  std::size_t at = 0;
  while (at < bytes.size() && !decoder.done() && decoder.problem() == nullptr) {
    std::string part = bytes.substr(at, piece);
    const auto step = decoder.decode(part.data(), part.size());
    payload.append(part, 0, step.produced);
    at += step.consumed;
  }
  return payload;
}
}  // namespace

TEST_CASE("head scanner: finds the end however the bytes are cut") {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
  for (std::size_t cut = 0; cut < head.size(); ++cut) {
    HeadScanner scanner;
    CHECK(scanner.scan(std::string_view(head).substr(0, cut)) == HeadScanner::Verdict::need_more);
    CHECK(scanner.scan(head + "body") == HeadScanner::Verdict::complete);
    CHECK(scanner.head_size() == head.size());
  }
}

TEST_CASE("head: Connection removes the headers it lists, but never the ones that frame or identify a request") {
  RequestHead head;
  const char* wrong = parse_request_head(
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: Host, X-Mine , content-length,X-Forwarded-For\r\n"
      "X-Mine: 1\r\nX-Forwarded-For: b\r\nTE: gzip\r\nX-Other: 2\r\n\r\n", HeadLimits{}, head);
  REQUIRE(wrong == nullptr);
  std::set<std::string> kept;
  for (const auto& field : head) {
    if (!head.is_hop_by_hop(field)) kept.insert(std::string(field.name));
  }
  CHECK(kept == std::set<std::string>{"Host", "Content-Length", "X-Forwarded-For", "X-Other"});
}

TEST_CASE("head: an absolute target is cut down to its path, and must name the host") {
  RequestHead head;
  CHECK(parse_request_head("GET http://a.b/x?y HTTP/1.1\r\nHost: A.b\r\n\r\n", HeadLimits{}, head) == nullptr);
  CHECK(head.target == "/x?y");
  CHECK(parse_request_head("GET http://a.b HTTP/1.1\r\nHost: a.b\r\n\r\n", HeadLimits{}, head) == nullptr);
  CHECK(head.target == "/");
  CHECK(parse_request_head("GET http://other/x HTTP/1.1\r\nHost: a.b\r\n\r\n", HeadLimits{}, head) != nullptr);
}

TEST_CASE("chunked body: decodes however the bytes are cut") {
  const std::string bytes = "5\r\nhello\r\n1;ext=\"a b\"\r\n,\r\n006\r\n world\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n";
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
    BodyDecoder decoder;
    decoder.begin(Framing::chunked, 0);
    CHECK(decode_all(decoder, bytes, piece) == "hello, world");
    CHECK(decoder.done());
    CHECK(decoder.problem() == nullptr);
    // A trailer may not frame anything.
    CHECK(decoder.trailers() == "X-Sum: 7\r\n");
  }
}

TEST_CASE("chunked body: what is not exactly a chunk is refused") {
  for (const std::string bytes :
       {"\r\n", "g\r\n", " 5\r\nhello\r\n", "5 \r\nhello\r\n", "-1\r\n", "0x5\r\nhello\r\n", "5\nhello\r\n", "5\r\nhelloo\r\n", "5\r\nhello\n",
        "5\r\nhello\r\r", "fffffffffffffffff\r\n", "0\r\nbad trailer\r\n\r\n", "0\r\n: x\r\n\r\n", "0\r\nX: a\n\r\n",
        "5;a\x01\r\nhello\r\n", "0\r\n folded: x\r\n\r\n", "+5\r\nhello\r\n", "5\rXhello\r\n"}) {
    BodyDecoder decoder;
    decoder.begin(Framing::chunked, 0);
    decode_all(decoder, bytes, 1);
    INFO(bytes);
    CHECK(decoder.problem() != nullptr);
  }
}

TEST_CASE("body: the bytes behind its end are left alone") {
  BodyDecoder decoder;
  decoder.begin(Framing::length, 3);
  std::string bytes = "abcGET";
  auto step = decoder.decode(bytes.data(), bytes.size());
  CHECK(step.consumed == 3);
  CHECK(decoder.done());
  decoder.begin(Framing::chunked, 0);
  bytes = "1\r\na\r\n0\r\n\r\nGET";
  step = decoder.decode(bytes.data(), bytes.size());
  CHECK(step.consumed == bytes.size() - 3);
  CHECK(decoder.done());
}

TEST_CASE("naming: a path names a function and keeps the rest") {
  auto named = name_by_path("/function/hello/a/b?c=d");
  CHECK(named.kind == PathKind::by_path);
  CHECK(named.name == "hello");
  CHECK(named.rest == "/a/b?c=d");
  CHECK(name_by_path("/function/hello?x").rest == "?x");
  CHECK(name_by_path("/function/hello.team").name == "hello.team");
  CHECK(name_by_path("/functional").kind == PathKind::by_host);
  CHECK(name_by_path("/healthz?full").kind == PathKind::health);
  CHECK(name_by_path("/healthzz").kind == PathKind::by_host);
  CHECK(name_by_path("/v1/functions").kind == PathKind::reserved);
  CHECK(name_by_path("/metrics").kind == PathKind::reserved);
}

TEST_CASE("naming: a host means itself, its first two labels, its first label") {
  const auto names = [](std::string_view host) {
    const HostNames found(host);
    std::vector<std::string> list;
    for (const auto name : found) list.emplace_back(name);
    return list;
  };
  using List = std::vector<std::string>;
  CHECK(names("Hello") == List{"hello"});
  CHECK(names("hello:8080") == List{"hello"});
  CHECK(names("hello.:80") == List{"hello"});
  CHECK(names("hello.team") == List{"hello.team", "hello"});
  CHECK(names("hello.default") == List{"hello"});
  CHECK(names("hello.team.example.com") == List{"hello.team.example.com", "hello.team", "hello"});
  CHECK(names("127.0.0.1:8080").empty());
  CHECK(names("[::1]:8080").empty());
  CHECK(names("").empty());
  CHECK(names("...").empty());
}

TEST_CASE("naming: call ids sort by time and never repeat") {
  Rng rng(7);
  std::set<std::string> seen;
  std::string before;
  for (int i = 0; i < 1000; ++i) {
    std::string id(kUlidSize, '?');
    write_ulid(id.data(), WallTime(std::chrono::milliseconds(1'700'000'000'000 + i)), rng);
    CHECK(is_call_id(id));
    CHECK(id.substr(0, 10) >= before);
    before = id.substr(0, 10);
    CHECK(seen.insert(id).second);
  }
  CHECK_FALSE(is_call_id(""));
  CHECK_FALSE(is_call_id("a b"));
  CHECK_FALSE(is_call_id(std::string(65, 'a')));
  CHECK(is_call_id(std::string(64, 'a')));
}

TEST_CASE("problem: what a client sent cannot break the JSON") {
  Problem problem;
  problem.reason = Reason::not_found;
  problem.detail = "\"\\\n\xff";
  std::string text;
  write_problem_body(problem, text);
  CHECK(text.find(R"("detail":"\"\\\u000a\u00ff"})") != std::string::npos);
  CHECK(text.find("\"ran\":false") != std::string::npos);
}

TEST_CASE("timer wheel: every timer fires once, never early and at most a slot late") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  struct Timer {
    TimerNode node;
    int fired = 0;
    Instant at{};
  };
  const Instant start = Instant(Duration(123'456'789'012));
  TimerWheel wheel(start);
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 400; ++i) {
    auto timer = std::make_unique<Timer>();
    timer->node.owner = timer.get();
    timer->node.fire = [](void* self, Instant now) {
      ++static_cast<Timer*>(self)->fired;
      static_cast<Timer*>(self)->at = now;
    };
    // From nothing to two hours, every scale equally likely.
    const auto distance = static_cast<std::int64_t>(std::exp(std::uniform_real_distribution<>(0, std::log(7.2e12))(random)));
    wheel.set(timer->node, start + Duration(distance));
    if (i % 3 == 0) wheel.set(timer->node, timer->node.deadline + 1s);       // later: stays and is moved on
    if (i % 5 == 0) wheel.set(timer->node, start + Duration(distance / 2));  // earlier
    timers.push_back(std::move(timer));
  }
  for (std::size_t i = 0; i < timers.size(); i += 10) wheel.clear(timers[i]->node);
  while (const auto next = wheel.next_wakeup()) wheel.expire(*next);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    INFO(i);
    CHECK(timers[i]->fired == (i % 10 == 0 ? 0 : 1));
    if (timers[i]->fired == 0) continue;
    CHECK(timers[i]->at >= timers[i]->node.deadline);
    CHECK(timers[i]->at <= timers[i]->node.deadline + 9ms);
  }
}

TEST_CASE("metrics: beyond the busiest functions, series are added up") {
  std::vector<MetricsSnapshot> shards(2);
  for (int i = 0; i < 20; ++i) {
    RevisionMetrics metrics;
    metrics.function = FunctionName{fmt::format("f{}", i)};
    metrics.revision = RevisionNumber{1};
    metrics.started = static_cast<std::uint64_t>(i);
    metrics.count_answer(200, Reason::none);
    for (auto& shard : shards) shard.revisions.push_back(metrics);
  }
  const std::string text = render_metrics(shards, 3, 5, "1.2.3");
  CHECK(text.find("dirigent_requests_started_total{fn=\"f19\",ns=\"default\",rev=\"f19-00001\"} 38\n") != std::string::npos);
  CHECK(text.find("fn=\"f16\"") == std::string::npos);
  // 2 x (0 + 1 + ... + 16)
  CHECK(text.find("dirigent_requests_started_total{fn=\"_other\",ns=\"\",rev=\"\"} 272\n") != std::string::npos);
  CHECK(text.find("dirigent_requests_total{fn=\"_other\",ns=\"\",rev=\"\",code=\"200\",reason=\"\"} 34\n") != std::string::npos);
}
