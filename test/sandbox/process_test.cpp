// SPDX-License-Identifier: MIT
//
// The process runtime: starting, ending, output, and what a failed start says.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <filesystem>
#include <fstream>
#include <set>

#include "dirigent/base/text.h"
#include "harness.h"
#include "sandbox/cell/executor_call.h"
#include "sandbox/turns.h"

namespace dirigent::sandbox::test {

namespace {

std::unique_ptr<Runtime> make(Harness& harness, const std::string& node = "process") {
  return make_process_runtime(harness.loop, process_options(node));
}

// A directory that can be a root: the probe program and nothing else.
std::string make_rootfs(const TemporaryDirectory& directory) {
  const std::string root = directory.path + "/rootfs";
  std::filesystem::create_directories(root + "/app");
  std::filesystem::copy_file(probe_path(), root + "/app/probe");
  return root;
}

}  // namespace

TEST_CASE("process: a program gets its arguments, its environment and nothing else of the worker's") {
  NEEDS_ROOT();
  ::setenv("SECRET_OF_THE_WORKER", "1", 1);
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto order = order_for(probe_image() + " report first", {"second third"});
  order.spec.environment = {{"COLOUR", "green"}, {"PORT", "1"}};
  order.spec.port = 9123;
  const SandboxEnd end = open.launch_to_end(order);
  const std::string output = open.output(order.id);
  CAPTURE(output);
  CHECK(end.cause == EndCause::exited);
  CHECK(end.exit_code == 0);
  const std::string id = to_string(order.id);
  for (const std::string& line :
       {std::string("argument first"), std::string("argument second third"), std::string("env COLOUR=green"),
        std::string("env PORT=9123"), std::string("env FUNCTION_NAME=tested"), std::string("env REVISION=tested-00001"),
        "env SANDBOX_ID=" + id}) {
    CAPTURE(line);
    CHECK(output.find(line + "\n") != std::string::npos);
  }
  CHECK(output.find(" host " + id + " ") != std::string::npos);
  CHECK(output.find("SECRET") == std::string::npos);
  CHECK(output.find("fds 3\n") != std::string::npos);
  CHECK(output.find("nofile 1024\n") != std::string::npos);
}

TEST_CASE("process: a program on the host serves on the port it was told") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto order = order_for(probe_image(), {"serve", "from the probe\n"});
  order.spec.port = 80;
  const auto launched = open.launch(order);
  REQUIRE((launched ? "" : launched.error().message) == "");
  bool ready = false;
  for (int i = 0; i < 500 && !ready; ++i) ready = harness.run(open.runtime->probe(order.id, "/", 20ms)).value();
  REQUIRE(ready);
  CHECK(get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("from the probe\n"));
}

TEST_CASE("process: the exit code, the signal and the last output of a function are told") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  const SandboxEnd exited = open.launch_to_end(order_for(probe_image(), {"exit", "42"}));
  CHECK(exited.cause == EndCause::exited);
  CHECK(exited.exit_code == 42);
  CHECK(exited.signal == 0);
  CHECK(exited.last_output == "leaving with 42\n");
  const SandboxEnd signalled = open.launch_to_end(order_for(probe_image(), {"signal", "9"}));
  CHECK(signalled.signal == 9);
  CHECK(signalled.detail.find("KILL") != std::string::npos);
  const SandboxEnd builtin = open.launch_to_end([] {
    auto order = order_for("builtin:hello");
    order.spec.environment["START_EXIT"] = "3";
    return order;
  }());
  CHECK(builtin.exit_code == 3);
}

TEST_CASE("process: a start that fails says what was tried, on what, and leaves nothing") {
  NEEDS_ROOT();
  Harness harness;
  TemporaryDirectory directory;
  OpenRuntime open(harness, make(harness));
  const std::string script = directory.path + "/script";
  std::ofstream(script) << "#!/no/such/interpreter\n";
  ::chmod(script.c_str(), 0755);
  const std::string not_tar = directory.path + "/not.tar";
  std::ofstream(not_tar) << std::string(600, 'x');
  struct Case {
    std::string image;
    std::vector<std::string> arguments;
    ErrorCode code;
    std::string says;
  };
  const Case cases[] = {
      {"exec:/no/such/program", {}, ErrorCode::not_found, "/no/such/program"},
      {"exec:/etc/passwd", {}, ErrorCode::not_found, "not an executable"},
      {"exec:" + script, {}, ErrorCode::not_found, "interpreter"},
      {"dir:/no/such/root", {"/bin/sh"}, ErrorCode::not_found, "/no/such/root"},
      {"dir:" + make_rootfs(directory), {}, ErrorCode::invalid_argument, "command"},
      {"dir:" + directory.path + "/rootfs", {"/bin/sh"}, ErrorCode::not_found, "/bin/sh"},
      {"tar:" + not_tar, {"/bin/sh"}, ErrorCode::corrupt, "not.tar"},
      {"127.0.0.1:1/image:1", {}, ErrorCode::unavailable, "127.0.0.1:1/image:1"},
  };
  for (const auto& one : cases) {
    CAPTURE(one.image);
    auto order = order_for(one.image, one.arguments);
    const auto launched = open.launch(order);
    REQUIRE_FALSE(launched.has_value());
    CAPTURE(launched.error().message);
    CHECK(launched.error().code == one.code);
    CHECK(launched.error().message.find(one.says) != std::string::npos);
    CHECK(harness.run(open.runtime->remove(order.id, 1s)).has_value());
  }
  CHECK(open.ends.empty());
}

TEST_CASE("process: a directory is a root whose changes are the sandbox's own and bounded") {
  NEEDS_ROOT();
  Harness harness;
  TemporaryDirectory directory;
  const std::string root = make_rootfs(directory);
  OpenRuntime open(harness, make(harness));
  auto order = order_for("dir:" + root, {"/app/probe", "report"});
  order.spec.working_directory = "/app";
  const SandboxEnd end = open.launch_to_end(order);
  CAPTURE(end.detail, end.last_output);
  CHECK(end.exit_code == 0);
  CHECK(end.last_output.find("cwd /app\n") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(root + "/proc"));
}

TEST_CASE("process: a tar file is unpacked and run") {
  NEEDS_ROOT();
  Harness harness;
  TemporaryDirectory directory;
  const std::string root = make_rootfs(directory);
  const std::string archive = directory.path + "/image.tar";
  REQUIRE(std::system(("tar -C " + root + " -cf " + archive + " .").c_str()) == 0);
  auto options = process_options("tar");
  options.images.directory = directory.path + "/cache";
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  const SandboxEnd end = open.launch_to_end(order_for("tar:" + archive, {"/app/probe", "exit", "5"}));
  CHECK(end.exit_code == 5);
}

TEST_CASE("process: output is kept in a bounded ring, also for a while after the end") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto order = order_for(probe_image(), {"lines", "20000", "200"});
  const SandboxEnd end = open.launch_to_end(order);
  const auto lines = open.runtime->logs(order.id, 1'000'000);
  REQUIRE_FALSE(lines.empty());
  CHECK(lines.back().text.starts_with("line 19999 "));
  std::size_t bytes = 0;
  for (const auto& line : lines) bytes += line.text.size();
  CHECK(bytes <= 1 << 20);
  CHECK(bytes > 1 << 19);
  CHECK(end.last_output.size() <= 4096);
  CHECK(open.runtime->logs(order.id, 1).size() == 1);
}

TEST_CASE("process: removing sends TERM, and KILL after the grace") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  auto polite = order_for(probe_image(), {"polite"});
  auto stubborn = order_for(probe_image(), {"stubborn"});
  REQUIRE(open.launch(polite).has_value());
  REQUIRE(open.launch(stubborn).has_value());
  REQUIRE(harness.until([&] { return open.output(polite.id) == "ready\n" && open.output(stubborn.id) == "ready\n"; }));
  CHECK(harness.run(open.runtime->remove(polite.id, 10s)).has_value());
  REQUIRE(open.ends.size() == 1);
  CHECK(open.ends[0].second.exit_code == 7);
  CHECK(open.output(polite.id) == "ready\ngot TERM\n");
  const Instant began = io::Loop::now();
  CHECK(harness.run(open.runtime->remove(stubborn.id, 200ms)).has_value());
  CHECK(io::Loop::now() - began >= 200ms);
  REQUIRE(open.ends.size() == 2);
  CHECK(open.ends[1].second.signal == SIGKILL);
  CHECK(open.ends[1].second.cause == EndCause::requested);
}

namespace {

io::Action launch_into(Runtime& runtime, StartSandbox order, std::vector<Result<Launched>>& results) {
  Result<Launched> launched = co_await runtime.launch(std::move(order));
  results.push_back(std::move(launched));
}

}  // namespace

TEST_CASE("process: fifty launches at once all succeed, each with an address of its own") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  io::TaskGroup group(harness.loop, "launches");
  std::vector<Result<Launched>> results;
  for (int i = 0; i < 50; ++i) group.spawn(launch_into(*open.runtime, order_for("builtin:hello"), results));
  REQUIRE(harness.until([&] { return results.size() == 50; }, 60s));
  std::set<std::string> addresses;
  for (const auto& launched : results) {
    REQUIRE((launched ? "" : launched.error().message) == "");
    addresses.insert(launched->address.direct);
    CHECK(get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
              .ends_with("hello from tested-00001\n"));
  }
  CHECK(addresses.size() == 50);
  group.drain_now();
}

TEST_CASE("process: a function's first sandbox does not wait behind the many of another function") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("fair");
  options.parked = 0;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  io::TaskGroup group(harness.loop, "launches");
  std::vector<Result<Launched>> greedy;
  std::vector<Result<Launched>> modest;
  for (int i = 0; i < 60; ++i) group.spawn(launch_into(*open.runtime, order_for("builtin:hello"), greedy));
  auto order = order_for("builtin:hello");
  order.function = FunctionName{"modest"};
  group.spawn(launch_into(*open.runtime, order, modest));
  REQUIRE(harness.until([&] { return modest.size() == 1; }, 60s));
  CHECK((modest[0] ? "" : modest[0].error().message) == "");
  // First come, first served would have started all sixty.
  CHECK(greedy.size() < 40);
  REQUIRE(harness.until([&] { return greedy.size() == 60; }, 60s));
  group.drain_now();
}

TEST_CASE("process: a launch that is cancelled leaves no sandbox") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("cancel");
  options.parked = 0;
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  std::vector<Result<Launched>> results;
  auto order = order_for("builtin:hello");
  {
    io::TaskGroup group(harness.loop, "launches");
    group.spawn(launch_into(*open.runtime, order, results));
    harness.loop.poll();
    group.drain_now();
  }
  CHECK_FALSE(harness.run(open.runtime->probe(order.id, "", 10ms)).value());
  const auto again = open.launch(order);
  CHECK((again ? "" : again.error().message) == "");
}

TEST_CASE("process: whose turn it is goes when another has ended, or when none ends any more") {
  Harness harness;
  io::TaskGroup group(harness.loop, "turns");
  std::vector<int> gone;
  std::deque<Turns::Turn> held;
  const auto go = [&](Turns& turns, int number) -> io::Action {
    auto turn = co_await turns.wait(io::Loop::now() + 1h);
    if (!turn) co_return;
    gone.push_back(number);
    held.push_back(std::move(*turn));
  };
  const auto have_gone = [&](const std::vector<int>& wanted) {
    harness.until([&] { return gone.size() >= wanted.size(); });
    harness.until([] { return false; }, 20ms);
    return gone == wanted;
  };
  Turns strict(harness.loop, 2);
  for (int i = 0; i < 5; ++i) group.spawn(go(strict, i));
  CHECK(have_gone({0, 1}));
  held.pop_front();
  CHECK(have_gone({0, 1, 2}));
  // One who comes in the moment in which a turn ends is not before those who wait.
  const auto end_one_and_go = [&]() -> io::Action {
    held.pop_front();
    co_await go(strict, 5);
  };
  group.spawn(end_one_and_go());
  CHECK(have_gone({0, 1, 2, 3}));
  while (!held.empty()) {
    held.pop_front();
    harness.until([] { return false; }, 5ms);
  }
  CHECK(have_gone({0, 1, 2, 3, 4, 5}));

  gone.clear();
  Turns patient(harness.loop, 1, 5ms);
  for (int i = 6; i < 10; ++i) group.spawn(go(patient, i));
  CHECK(harness.until([&] { return gone.size() == 4; }));
  held.clear();

  Turns late(harness.loop, 1);
  const auto stalled = harness.run(late.wait(Instant::max()));
  CHECK(stalled.has_value());
  const auto never = harness.run(late.wait(io::Loop::now() + 5ms));
  REQUIRE(!never.has_value());
  CHECK(never.error().code == ErrorCode::timed_out);
  group.spawn(go(late, 10));
  group.drain_now();
  CHECK(gone.size() == 4);
}

TEST_CASE("process: launches that take turns come to their end in the order in which they came, and one that fails gives its turn on") {
  NEEDS_ROOT();
  Harness harness;
  auto options = process_options("process");
  options.parked = 12;
  options.starts_at_a_time = 1;
  options.turn_patience = 1h;  // however slow the machine is
  OpenRuntime open(harness, make_process_runtime(harness.loop, options));
  std::vector<int> ended;
  std::vector<int> failed;
  {
    io::TaskGroup group(harness.loop, "launches");
    const auto launch = [&](int number) -> io::Action {
      StartSandbox order = order_for("builtin:hello");
      if (number % 4 == 1) order = order_for("exec:/no/such/program");
      const auto launched = co_await open.runtime->launch(std::move(order));
      (launched ? ended : failed).push_back(number);
    };
    for (int i = 0; i < 12; ++i) group.spawn(launch(i));
    CHECK(harness.until([&] { return ended.size() + failed.size() == 12; }));
    group.drain_now();
  }
  CHECK(ended == std::vector{0, 2, 3, 4, 6, 7, 8, 10, 11});
  CHECK(failed.size() == 3);
  CHECK(open.launch(order_for("builtin:hello")).has_value());
}

TEST_CASE("process: builtin functions do what their names say") {
  NEEDS_ROOT();
  Harness harness;
  OpenRuntime open(harness, make(harness));
  const auto start = [&](const std::string& image) {
    const auto launched = open.launch(order_for(image));
    if (!launched) throw std::runtime_error(launched.error().message);
    return launched->address.direct;
  };
  const std::string close = "Connection: close\r\n\r\n";
  const std::string echo = start("builtin:echo");
  CHECK(get(harness, echo, "PUT /a?b=c HTTP/1.1\r\nHost: a\r\n" + close).ends_with("\r\n\r\nPUT /a\n"));
  const std::string chunked = get(harness, echo,
                                  "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n" +
                                      close + "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
  CHECK(chunked.ends_with("\r\n\r\nabcde"));
  CHECK(chunked.find("Content-Type: a/b\r\n") != std::string::npos);
  const std::string two =
      get(harness, echo, "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n" + close);
  CHECK(two.find("Content-Length: 8\r\n\r\nHTTP/1.1 200") != std::string::npos);
  CHECK(two.ends_with("GET /y\n"));
  const std::string large(1 << 20, 'z');
  CHECK(get(harness, echo,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(large.size()) + "\r\n" + close + large)
            .ends_with("\r\n\r\n" + large));
  const std::string sleep = start("builtin:sleep");
  CHECK(get(harness, sleep, "GET /?ms=20 HTTP/1.1\r\nHost: a\r\n" + close).find("slept 2") != std::string::npos);
  const std::string stream = start("builtin:stream");
  CHECK(get(harness, stream, "GET /?n=2&ms=1 HTTP/1.1\r\nHost: a\r\n" + close)
            .ends_with("9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"));
  const std::string fail = start("builtin:fail");
  CHECK(get(harness, fail, "GET /?status=418 HTTP/1.1\r\nHost: a\r\n" + close).starts_with("HTTP/1.1 418 "));
  CHECK(get(harness, fail, "GET /?close HTTP/1.1\r\nHost: a\r\n" + close).empty());
  CHECK(get(harness, fail, "GET /?exit=9 HTTP/1.1\r\nHost: a\r\n" + close).empty());
  REQUIRE(harness.until([&] { return !open.ends.empty(); }));
  CHECK(open.ends[0].second.exit_code == 9);
  const std::string trace = start("builtin:trace");
  const std::string traced = get(
      harness, trace,
      "POST / HTTP/1.1\r\nHost: a\r\nworkload: trace\r\nfunction: f-1\r\nrequested_cpu: 10\r\nContent-Length: 0\r\n" +
          close);
  CHECK(traced.find("{\"Status\":\"OK\",\"Function\":\"f-1\",\"MachineName\":\"process-") != std::string::npos);
  CHECK(traced.ends_with("}"));
  CHECK(traced.find("\"ExecutionTime\":1") != std::string::npos);
  CHECK(get(harness, trace,
            "POST / HTTP/1.1\r\nHost: a\r\nworkload: x_empty_y\r\nfunction: f\r\nrequested_cpu: 9000\r\n" + close)
            .ends_with("\"ExecutionTime\":0}"));
  // The same as the gRPC call of Invitro: 10 ms, 512 MiB.
  const std::string grpc = "POST /faas.Executor/Execute HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\nContent-Length: ";
  const std::string executed = get(harness, trace, grpc + "19\r\n" + close + std::string("\0\0\0\0\x0e\x0a\x07nothing\x10\x0a\x18\x80\x04", 19));
  CHECK(executed.find("Content-Type: application/grpc\r\n") != std::string::npos);
  CHECK(executed.find("\x18\x80\x80\x20\r\n") != std::string::npos);
  CHECK(executed.ends_with("0\r\ngrpc-status: 0\r\n\r\n"));
  CHECK(get(harness, trace, grpc + "4\r\n" + close + "what").ends_with("\r\n\r\n0\r\ngrpc-status: 3\r\n\r\n"));
}

TEST_CASE("process: what is no call of faas.Executor is refused, whatever it is") {
  using cell::read_execute;
  const auto framed = [](std::string message) {
    return std::string({'\0', '\0', '\0', static_cast<char>(message.size() >> 8), static_cast<char>(message.size() & 0xff)}) + message;
  };
  const auto call = read_execute(framed("\x0a\x01x\x10\xac\x02\x18\x40\x25" "abcd\x29" "abcdefgh"));  // and fields nobody knows
  REQUIRE(call);
  CHECK(call->run_ms == 300);
  CHECK(call->memory_mib == 64);
  CHECK(read_execute(framed("")));
  CHECK_FALSE(read_execute(""));
  CHECK_FALSE(read_execute(std::string(4, '\0')));
  CHECK_FALSE(read_execute("\x01" + framed("\x10\x0a").substr(1)));  // compressed
  CHECK_FALSE(read_execute(framed("\x10\x0a") + "more"));
  CHECK_FALSE(read_execute(framed("\x10")));
  CHECK_FALSE(read_execute(framed("\x10" + std::string(10, '\x80'))));
  CHECK_FALSE(read_execute(framed("\x0a\x7fx")));
  CHECK_FALSE(read_execute(framed("\x0a" + std::string(9, '\xff') + "\x01")));
  CHECK_FALSE(read_execute(framed("\x29xyz")));
  CHECK_FALSE(read_execute(framed("\x13")));  // a group
}

}  // namespace dirigent::sandbox::test
