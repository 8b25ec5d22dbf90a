// SPDX-License-Identifier: MIT
//
// Asynchronous calls through a whole data plane: accepting, running, results, callbacks, and what happens when the store
// cannot write.
#include <unistd.h>

#include <asio/co_spawn.hpp>

#include <atomic>
#include <filesystem>

#include "catch.h"
#include "harness.h"
#include "roles/data/async_callback.h"
#include "temporary_directory.h"

using namespace dirigent;
using namespace dirigent::test;
using namespace dirigent::roles;

namespace {

std::function<void(ProxyOptions&)> with_async(std::function<void(AsyncOptions&)> adjust = {}) {
  return [adjust](ProxyOptions& options) {
    options.async.durability = AsyncOptions::Durability::memory;
    options.async.backoff_min = 1ms;
    options.async.backoff_max = 5ms;
    if (adjust) adjust(options.async);
  };
}

Response post(const Plane& plane, std::string_view target, std::string_view body, std::string_view headers = "") {
  std::string request = "POST " + std::string(target) + " HTTP/1.1\r\nHost: f\r\n" + std::string(headers) +
                        "Content-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + std::string(body);
  return fetch(plane.address(), request);
}

Response result_of(const Plane& plane, const std::string& id) {
  return fetch(plane.address(), get("/async-function/result/" + id));
}

// The result when it is there.
Response wait_for_result(Plane& plane, const std::string& id) {
  Response response;
  plane.eventually([&] {
    response = result_of(plane, id);
    return response.status != 202;
  });
  return response;
}

}  // namespace

TEST_CASE("async: a request is kept and run byte for byte, and its answer is told") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) {
    return ok("answer to " + received.body, "X-Mine: yes\r\nContent-Type: text/x-mine\r\n");
  }));
  Plane plane(with_async());
  plane.route("f", {sandbox.address()});
  const std::string body("a\0b\r\n\xff", 6);
  const Response accepted = post(plane, "/async-function/f/path/x?q=%20&r", body, "X-Odd:  spaced \r\nX-Call-Id: mine\r\nX-Retry: 9\r\n");
  CHECK(accepted.status == 202);
  CHECK(accepted.body.empty());
  const std::string id = accepted.header("X-Call-Id");
  CHECK(parse_call_id(id).has_value());
  CHECK(accepted.header("Location") == "/async-function/result/" + id);
  const Response result = wait_for_result(plane, id);
  CHECK(result.status == 200);
  CHECK(result.header("X-Function-Status") == "200");
  CHECK(result.header("X-Mine") == "yes");
  CHECK(result.header("Content-Type") == "text/x-mine");
  CHECK(result.header("X-Call-Id") == id);
  CHECK(result.count("X-Call-Id") == 1);
  CHECK(result.body == "answer to " + body);
  const Received received = sandbox.last();
  CHECK(received.head.starts_with("POST /path/x?q=%20&r HTTP/1.1\r\n"));
  CHECK(received.body == body);
  CHECK(received.header("X-Odd") == "spaced");
  CHECK(received.header("X-Call-Id") == id);
  CHECK(received.count("X-Call-Id") == 1);
  CHECK(received.header("X-Retry") == "1");
  CHECK(received.count("X-Retry") == 1);
  CHECK(received.header("X-Forwarded-For") == "127.0.0.1");
  CHECK(sandbox.requests() == 1);
}

TEST_CASE("async: a preference makes a synchronous URL asynchronous, and is ignored where none are taken") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("hi")));
  {
    Plane plane(with_async());
    plane.route("f", {sandbox.address()});
    const Response accepted = post(plane, "/function/f/x", "body", "Prefer: wait=5, respond-async\r\n");
    CHECK(accepted.status == 202);
    CHECK(accepted.header("Preference-Applied") == "respond-async");
    CHECK(wait_for_result(plane, accepted.header("X-Call-Id")).body == "hi");
    CHECK(sandbox.last().header("Prefer") == "wait=5, respond-async");
    CHECK(post(plane, "/by-host", "", "Prefer: respond-async\r\n").status == 202);
    CHECK(post(plane, "/function/f", "").status == 200);
  }
  Plane plane;
  plane.route("f", {sandbox.address()});
  CHECK(post(plane, "/function/f", "", "Prefer: respond-async\r\n").status == 200);
  const Response refused = post(plane, "/async-function/f", "");
  CHECK(refused.status == 503);
  CHECK(refused.header("X-Dirigent-Reason") == "store-unavailable");
}

TEST_CASE("async: what cannot be accepted is refused at once") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("hi")));
  Plane plane(with_async([](AsyncOptions& options) { options.body_max = Bytes{10}; }));
  plane.route("f", {sandbox.address()});
  CHECK(post(plane, "/async-function/nobody", "x").status == 404);
  CHECK(post(plane, "/async-function/f", std::string(11, 'x')).status == 413);
  CHECK(fetch(plane.address(), "POST /async-function/f HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n").status == 413);
  CHECK(post(plane, "/async-function/f", "", "Idempotency-Key: " + std::string(256, 'k') + "\r\n").status == 400);
  const Response off = post(plane, "/async-function/f", "", "X-Callback-Url: http://example.com/\r\n");
  CHECK(off.status == 403);
  CHECK(off.body.find("async_callback_allow") != std::string::npos);
  CHECK(post(plane, "/async-function/f", "", "X-Callback-Url: nonsense\r\n").status == 400);
  CHECK(fetch(plane.address(), get("/async-function/result/nonsense")).status == 404);
  CHECK(sandbox.requests() == 0);
}

TEST_CASE("async: a chunked body and an expected 100 are taken like any other") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) { return ok(received.body); }));
  Plane plane(with_async());
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST /async-function/f HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
  CHECK(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
  wire.write("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
  const Response accepted = read_response(wire);
  CHECK(accepted.status == 202);
  CHECK(wait_for_result(plane, accepted.header("X-Call-Id")).body == "hello world");
  CHECK(sandbox.last().header("Content-Length") == "11");
  // The connection goes on.
  wire.write(get("/", "f"));
  CHECK(read_response(wire).status == 200);
}

TEST_CASE("async: an Idempotency-Key names one call of a function, also while it is being accepted") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("hi")));
  Plane plane(with_async());
  plane.route("f", {sandbox.address()});
  plane.route("g", {sandbox.address()});
  const std::string first = post(plane, "/async-function/f", "1", "Idempotency-Key: k\r\n").header("X-Call-Id");
  CHECK(post(plane, "/async-function/f", "2", "Idempotency-Key: k\r\n").header("X-Call-Id") == first);
  CHECK(post(plane, "/async-function/g", "2", "Idempotency-Key: k\r\n").header("X-Call-Id") != first);
  CHECK(post(plane, "/async-function/f", "2", "Idempotency-Key: l\r\n").header("X-Call-Id") != first);
  wait_for_result(plane, first);
  CHECK(post(plane, "/async-function/f", "2", "Idempotency-Key: k\r\n").header("X-Call-Id") == first);
}

TEST_CASE("async: failures are tried again with their number, and end as dead letters with the last answer") {
  std::atomic<int> runs{0};
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received& received) {
    const int run = ++runs;
    if (received.body == "flaky" && run == 3) return ok("at last " + received.header("X-Retry"));
    return "HTTP/1.1 500 No\r\nX-Run: " + std::to_string(run) + "\r\nContent-Length: 3\r\n\r\nbad";
  }));
  Plane plane(with_async());
  plane.route("f", {sandbox.address()});
  const Response result = wait_for_result(plane, post(plane, "/async-function/f", "flaky").header("X-Call-Id"));
  CHECK(result.body == "at last 3");
  CHECK(result.header("X-Retry") == "3");
  const std::string dead = post(plane, "/async-function/f", "hopeless").header("X-Call-Id");
  const Response last = wait_for_result(plane, dead);
  CHECK(last.status == 200);
  CHECK(last.header("X-Async-State") == "dead");
  CHECK(last.header("X-Function-Status") == "500");
  CHECK(last.header("X-Run") == "6");
  CHECK(last.body == "bad");
  CHECK(runs == 6);
  plane.on_loop([&] { return plane.plane().async()->redrive(*parse_call_id(dead)).has_value(); });
  CHECK(plane.eventually([&] { return runs == 9; }));
}

TEST_CASE("async: a lost connection is tried again, an answer of 404 is not") {
  std::atomic<int> runs{0};
  FakeSandbox sandbox(FakeSandbox::serving_until_closed([&](const Received& received, Wire& wire) {
    if (received.body == "gone") return wire.write("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    if (++runs < 2) return false;
    return wire.write(ok("second"));
  }));
  Plane plane(with_async());
  plane.route("f", {sandbox.address()});
  CHECK(wait_for_result(plane, post(plane, "/async-function/f", "x").header("X-Call-Id")).body == "second");
  const Response gone = wait_for_result(plane, post(plane, "/async-function/f", "gone").header("X-Call-Id"));
  CHECK(gone.header("X-Function-Status") == "404");
  CHECK(gone.header("X-Retry") == "1");
}

TEST_CASE("async: no more attempts at a time than allowed, and synchronous requests go on") {
  Event release;
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received& received) {
    if (received.body == "slow") release.wait();
    return ok("done");
  }));
  Plane plane(with_async([](AsyncOptions& options) { options.inflight_max = 3; }));
  plane.route("f", {sandbox.address()});
  std::vector<std::string> ids;
  for (int i = 0; i < 10; ++i) ids.push_back(post(plane, "/async-function/f", "slow").header("X-Call-Id"));
  CHECK(plane.eventually([&] { return sandbox.requests() == 3; }));
  CHECK(post(plane, "/function/f", "now").status == 200);
  CHECK(result_of(plane, ids[9]).status == 202);
  CHECK(plane.on_loop([&] { return plane.plane().async()->queue().in_flight(); }) == 3);
  CHECK(fetch(plane.address(), "DELETE /async-function/" + ids[9] + " HTTP/1.1\r\nHost: f\r\n\r\n").status == 202);
  CHECK(fetch(plane.address(), "DELETE /async-function/" + ids[0] + " HTTP/1.1\r\nHost: f\r\n\r\n").status == 409);
  CHECK(result_of(plane, ids[9]).status == 410);
  release.set();
  for (int i = 0; i < 9; ++i) CHECK(wait_for_result(plane, ids[static_cast<std::size_t>(i)]).status == 200);
  CHECK(sandbox.requests() == 10);
}

TEST_CASE("async: an answer that is too long is cut, and says so") {
  FakeSandbox sandbox(FakeSandbox::answering(ok(std::string(100'000, 'x'))));
  Plane plane(with_async([](AsyncOptions& options) { options.result_max = Bytes{1000}; }));
  plane.route("f", {sandbox.address()});
  const Response result = wait_for_result(plane, post(plane, "/async-function/f", "").header("X-Call-Id"));
  CHECK(result.body == std::string(1000, 'x'));
  CHECK(result.header("X-Result-Truncated") == "true");
}

TEST_CASE("async: in the original's mode every request is accepted with its id") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("{}")));
  Plane plane(with_async([](AsyncOptions& options) { options.takes_everything = true; }));
  plane.route("f", {sandbox.address()});
  const Response accepted = post(plane, "/", "x");
  CHECK(accepted.status == 200);
  CHECK(accepted.body.size() == 36);
  CHECK(wait_for_result(plane, accepted.body).body == "{}");
  CHECK(post(plane, "/", "x", "X: 1\r\n").body != accepted.body);
}

TEST_CASE("async: with a directory, calls that were not run when the data plane stopped run in the next one") {
  TemporaryDirectory directory;
  const auto on_disk = with_async([&](AsyncOptions& options) {
    options.durability = AsyncOptions::Durability::group;
    options.directory = directory.path("calls");
    options.store_max = 64_MiB;
  });
  std::vector<std::string> ids;
  std::string done;
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) { return ok("answer " + received.body); }));
  {
    Plane plane(on_disk);
    plane.route("f", {sandbox.address()});
    done = post(plane, "/async-function/f", "first").header("X-Call-Id");
    CHECK(wait_for_result(plane, done).body == "answer first");
    plane.route("g", {});  // no sandbox: they wait
    for (int i = 0; i < 20; ++i) {
      const Response accepted = post(plane, "/async-function/g", std::to_string(i));
      REQUIRE(accepted.status == 202);
      ids.push_back(accepted.header("X-Call-Id"));
    }
    plane.stop(Duration::zero());
  }
  Plane plane(on_disk);
  plane.route("g", {sandbox.address()});
  CHECK(result_of(plane, done).body == "answer first");
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(wait_for_result(plane, ids[i]).body == "answer " + std::to_string(i));
  CHECK(sandbox.requests() == 21);
  CHECK(result_of(plane, to_string(make_call_id(parse_call_id(done)->store(), {1, 2, 3}))).status == 404);
  // Of another store, whose data plane nobody knows.
  CHECK(result_of(plane, to_string(make_call_id(parse_call_id(done)->store() + 1, {1, 2, 3}))).status == 503);
}

TEST_CASE("async: a directory that another one has makes calls wait for it, not the data plane") {
  TemporaryDirectory directory;
  const auto on_disk = with_async([&](AsyncOptions& options) {
    options.durability = AsyncOptions::Durability::group;
    options.directory = directory.path("calls");
    options.store_max = 64_MiB;
  });
  FakeSandbox sandbox(FakeSandbox::answering(ok("hi")));
  auto first = std::make_unique<Plane>(on_disk);
  Plane second(on_disk);
  second.route("f", {sandbox.address()});
  const Response refused = post(second, "/async-function/f", "");
  CHECK(refused.status == 503);
  CHECK(refused.body.find("in use by process") != std::string::npos);
  CHECK(post(second, "/function/f", "").status == 200);
  first.reset();
  CHECK(second.eventually([&] { return post(second, "/async-function/f", "").status == 202; }));
}

TEST_CASE("async: another data plane adopts a directory, runs what is left and tells the results") {
  TemporaryDirectory directory;
  TemporaryDirectory own;
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) { return ok("answer " + received.body); }));
  std::string id;
  {
    Plane plane(with_async([&](AsyncOptions& options) {
      options.durability = AsyncOptions::Durability::group;
      options.directory = directory.path("calls");
      options.store_max = 64_MiB;
    }));
    plane.route("f", {});
    id = post(plane, "/async-function/f", "orphan").header("X-Call-Id");
    plane.stop(Duration::zero());
  }
  Plane plane(with_async([&](AsyncOptions& options) {
    options.durability = AsyncOptions::Durability::group;
    options.directory = own.path("calls");
    options.store_max = 64_MiB;
  }));
  plane.route("f", {sandbox.address()});
  CHECK(result_of(plane, id).status == 503);
  const auto adopt = [&](const std::string& path) {
    std::promise<Status> adopted;
    asio::co_spawn(plane.loop().context().get_executor(), plane.plane().async()->adopt(path), [&](std::exception_ptr, Status status) { adopted.set_value(std::move(status)); });
    return adopted.get_future().get();
  };
  CHECK(adopt(own.path("calls") + "/nothing").error().code == ErrorCode::not_found);
  CHECK(adopt(own.path("calls")).error().code == ErrorCode::already_exists);
  CHECK(adopt(directory.path("calls")));
  CHECK(wait_for_result(plane, id).body == "answer orphan");
}

namespace {

// A store in memory whose disk is full when it is told so.
class FullStore final : public store::CallStore {
 public:
  explicit FullStore(std::atomic<bool>& is_full) : is_full_(is_full), inner_(store::memory_call_store(16_MiB)) {}
  [[nodiscard]] StoreId id() const override { return 77; }
  [[nodiscard]] const std::string& directory() const override { return inner_->directory(); }
  void write(store::CallWrite change, std::function<void(Status)> done) override {
    if (is_full_) {
      done(failure(ErrorCode::exhausted, "the disk is full"));
    } else {
      inner_->write(std::move(change), std::move(done));
    }
  }
  Result<std::string> read(const CallId& id, store::CallPart part) override { return inner_->read(id, part); }
  void forget(const CallId& id, std::uint8_t parts) override { inner_->forget(id, parts); }
  std::vector<store::FoundCall> found() override { return {}; }
  [[nodiscard]] const store::StoreDamage& damage() const override { return inner_->damage(); }
  void tidy() override {}
  [[nodiscard]] store::CallStoreFigures figures() const override { return inner_->figures(); }

 private:
  std::atomic<bool>& is_full_;
  std::unique_ptr<store::CallStore> inner_;
};

}  // namespace

TEST_CASE("async: a full disk means 503 and nothing else, and all goes on when there is room") {
  std::atomic<bool> is_full{false};
  Event release;
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received& received) {
    if (received.body == "slow") release.wait();
    return ok("done");
  }));
  const auto adjust = with_async([](AsyncOptions& options) {
    options.durability = AsyncOptions::Durability::group;
    options.directory = "not-used";
  });
  Plane plane(adjust, [&](const store::CallStoreOptions&) -> Result<std::unique_ptr<store::CallStore>> {
    return std::make_unique<FullStore>(is_full);
  });
  plane.route("f", {sandbox.address()});
  const std::string running = post(plane, "/async-function/f", "slow").header("X-Call-Id");
  CHECK(plane.eventually([&] { return sandbox.requests() == 1; }));
  is_full = true;
  const Response refused = post(plane, "/async-function/f", "x");
  CHECK(refused.status == 503);
  CHECK(refused.header("X-Dirigent-Reason") == "store-unavailable");
  CHECK(refused.header("Retry-After") == "1");
  CHECK(post(plane, "/function/f", "x").status == 200);
  release.set();
  // It has ended, but nobody may be told before that is written.
  CHECK(plane.eventually([&] { return plane.on_loop([&] { return plane.plane().async()->queue().in_flight(); }) == 0; }));
  CHECK(result_of(plane, running).status == 202);
  is_full = false;
  CHECK(wait_for_result(plane, running).body == "done");
  CHECK(post(plane, "/async-function/f", "x").status == 202);
  CHECK(sandbox.requests() >= 2);
}

TEST_CASE("async: labels are those of the revision that serves") {
  const std::string json = R"({"serving":1,"revisions":[{"revision":1,"spec":{"labels":{"a":"1","n":5}}},{"revision":2,"spec":{"labels":{"a":"2"}}}]})";
  CHECK(labels_of_function(json) == std::vector<std::pair<std::string, std::string>>{{"a", "1"}});
  CHECK(labels_of_function("nonsense").empty());
  CHECK(labels_of_function("{}").empty());
}

TEST_CASE("async: a callback carries the result, is signed, and goes where it is allowed only") {
  std::string secret_file = (std::filesystem::temp_directory_path() / "dirigent-secret-XXXXXX").string();
  const int fd = ::mkstemp(secret_file.data());
  REQUIRE(::write(fd, "0123456789abcdef\n", 17) == 17);
  ::close(fd);
  std::atomic<int> answers{0};
  FakeSandbox receiver(FakeSandbox::answering([&](const Received&) {
    return ++answers == 1 ? std::string("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") : ok("");
  }));
  FakeSandbox sandbox(FakeSandbox::answering(ok("the result", "Content-Type: text/x\r\n")));
  Plane plane(with_async([&](AsyncOptions& options) {
    options.callback_allow = {"127.0.0.1"};
    options.callback_secret_file = secret_file;
  }));
  plane.route("f", {sandbox.address()});
  const std::string url = "X-Callback-Url: http://" + receiver.address() + "/done?x=1\r\n";
  const std::string id = post(plane, "/async-function/f", "", url).header("X-Call-Id");
  CHECK(plane.eventually([&] { return answers == 2; }));
  const Received received = receiver.last();
  CHECK(received.head.starts_with("POST /done?x=1 HTTP/1.1\r\n"));
  CHECK(received.body == "the result");
  CHECK(received.header("X-Call-Id") == id);
  CHECK(received.header("X-Function-Name") == "f");
  CHECK(received.header("X-Function-Status") == "200");
  CHECK(received.header("Content-Type") == "text/x");
  CHECK(received.header("X-Dirigent-Signature-256") ==
        sign_callback("0123456789abcdef", received.header("X-Dirigent-Timestamp"), "the result"));
  CHECK(plane.eventually([&] {
    return plane.on_loop([&] { return plane.plane().async()->queue().find(*parse_call_id(id))->callback; }) == core::CallbackPhase::delivered;
  }));
  CHECK(post(plane, "/async-function/f", "", "X-Callback-Url: http://10.0.0.1/\r\n").status == 403);
  ::unlink(secret_file.c_str());
}

TEST_CASE("callbacks: a signature is the HMAC-SHA256 over the time stamp, a point and the body") {
  // From another implementation.
  CHECK(sign_callback("Jefe", "1", "what") == "sha256=ffb2e09f49104eda0b5217b7710b58a8118357b1db6d6fa15eef9415f7e4d28e");
  CHECK(sign_callback(std::string(100, 'k'), "1700000000", "{\"a\":1}") ==
        "sha256=e0b419ce90349e7bf07569fb4c3e646db7042eb8c074a060f9d00f9df36890d1");
}

TEST_CASE("callbacks: forty ways to write an address that is not allowed are refused") {
  const auto rules = CallbackRules::parse({"example.com", "*.example.org", "1.1.1.1", "[2606:4700::]/32", "hooks.example.net:8443"});
  REQUIRE(rules.has_value());
  const char* const refused[] = {
      "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/",
      "http://127.0.0.1.example.com.evil.net/", "http://localhost/", "http://LOCALHOST./", "http://0/", "http://0.0.0.0/",
      "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
      "http://100.64.0.1/", "http://224.0.0.1/", "http://255.255.255.255/", "http://[::1]/", "http://[::]/",
      "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
      "http://[fe80::1]/", "http://[fc00::1]/", "http://[ff02::1]/", "http://[fe80::1%25eth0]/", "https://hooks.example.net/", "https://127.0.0.1/",
      "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/", "http://user@example.com/",
      "http://example.com@127.0.0.1/", "http://127.0.0.1#@example.com/", "http://127.0.0.1\\@example.com/",
      "http://example.com:22/", "http://example.com:0/", "http://example.com:99999/", "http://example.com:8080x/",
      "http://evil-example.com/", "http://example.org/", "http://hooks.example.net/", "http://1.1.1.1.1/", "http://1.1.1/",
      "http://example.com/\r\nX: 1", "http://exa mple.com/", "http:///", "",
  };
  int count = 0;
  for (const char* url : refused) {
    INFO(url);
    const auto parsed = parse_callback_url(url);
    CHECK((!parsed || !rules->check_url(*parsed)));
    ++count;
  }
  CHECK(count >= 40);
  for (const char* url : {"http://example.com", "http://example.com/x?y", "http://EXAMPLE.com:8080/", "http://a.b.example.org/",
                          "http://1.1.1.1/", "http://[2606:4700::1111]/", "http://hooks.example.net:8443/", "http://example.com./", "https://example.com",
                          "HTTPS://example.com:8443/x", "https://[2606:4700::1111]/"}) {
    INFO(url);
    const auto parsed = parse_callback_url(url);
    REQUIRE(parsed.has_value());
    CHECK(rules->check_url(*parsed));
  }
}

TEST_CASE("callbacks: a listed name leads to public addresses only, unless they are listed themselves") {
  const auto address = [](std::string_view text) { return parse_callback_url("http://" + std::string(text) + "/")->address; };
  const auto rules = CallbackRules::parse({"example.com", "10.1.0.0/16"});
  const auto url = parse_callback_url("http://example.com/");
  for (const char* text : {"127.0.0.1", "10.0.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "100.127.0.1", "0.1.2.3",
                           "192.0.2.1", "198.18.0.1", "203.0.113.1", "240.0.0.1", "[::1]", "[::]", "[::ffff:10.0.0.1]",
                           "[64:ff9b::a00:1]", "[2002:a00:1::]", "[2001::1]", "[2001:db8::1]", "[fe80::1]", "[fd00::1]", "[ff02::1]"}) {
    INFO(text);
    CHECK_FALSE(is_public_address(address(text)));
    CHECK_FALSE(rules->check_address(*url, address(text)));
  }
  for (const char* text : {"1.1.1.1", "8.8.8.8", "172.32.0.1", "[2606:4700::1111]"}) CHECK(rules->check_address(*url, address(text)));
  CHECK(rules->check_address(*url, address("10.1.2.3")));
  for (const char* entry : {"", "http://example.com", "1.2.3.4/33", "[::1", "a b", "::1", "example.com:x", "example.com/8"}) {
    INFO(entry);
    CHECK_FALSE(CallbackRules::parse({entry}).has_value());
  }
}
