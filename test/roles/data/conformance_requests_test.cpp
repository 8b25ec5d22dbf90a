// SPDX-License-Identifier: MIT
//
// Every request of conformance/requests, through a data plane on real sockets, cut in three ways.
#include <filesystem>
#include <mutex>
#include <random>

#include "catch.h"
#include "conformance_cases.h"
#include "dirigent/base/text.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

constexpr std::string_view kInnocent = "GET /innocent HTTP/1.1\r\nHost: f\r\n\r\n";

// Function f: keeps what it gets and answers each request with its request line.
class Recorder {
 public:
  Recorder()
      : sandbox_([this](Wire& wire, FakeSandbox&) {
          while (auto received = read_request(wire)) {
            const std::string line = received->head.substr(0, received->head.find("\r\n"));
            {
              const std::lock_guard lock(mutex_);
              requests_.push_back(std::move(*received));
            }
            if (!wire.write(line.starts_with("HEAD ") ? "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" : ok(line)))
              return;
          }
        }) {}
  const std::string& address() const { return sandbox_.address(); }
  std::vector<Received> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(requests_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Received> requests_;
  FakeSandbox sandbox_;
};

struct Wanted {
  std::vector<std::string> statuses;
  std::string fate;
};
Wanted wanted_of(const ConformanceCase& one) {
  Wanted wanted;
  for (const auto word : split(one.expected.front(), ' ')) wanted.statuses.emplace_back(word);
  if (wanted.statuses.back() == "keep" || wanted.statuses.back() == "close" || wanted.statuses.back() == "nothing") {
    wanted.fate = wanted.statuses.back();
    wanted.statuses.pop_back();
  }
  return wanted;
}

void check_problem(const Response& response) {
  CHECK(response.header("Content-Type") == "application/problem+json");
  CHECK(response.header("X-Dirigent-Reason") == "bad-request");
  CHECK(response.header("Connection") == "close");
  CHECK(response.body.find("\"ran\":false") != std::string::npos);
}

template <class Message>
void check_header(const Message& message, std::string_view line, std::string_view with, std::string_view without) {
  if (line.starts_with(without)) {
    INFO(message.head);
    CHECK(message.count(line.substr(without.size())) == 0);
  } else if (line.starts_with(with)) {
    const std::string_view field = line.substr(with.size());
    const std::size_t colon = field.find(':');
    INFO(message.head);
    CHECK(message.count(field.substr(0, colon)) == 1);
    CHECK(message.header(field.substr(0, colon)) == unescape(trim(field.substr(colon + 1))));
  }
}

void check_seen(const ConformanceCase& one, const Wanted& wanted, const std::vector<Received>& seen) {
  std::vector<std::string> lines;
  for (const auto& request : seen) lines.push_back(request.head.substr(0, request.head.find("\r\n")));
  std::vector<std::string> expected;
  for (const auto& line : one.expected) {
    if (line.starts_with("sees ")) expected.push_back(unescape(line.substr(5)));
  }
  if (expected.empty()) {
    const auto answered = std::count_if(wanted.statuses.begin(), wanted.statuses.end(),
                                        [](const std::string& status) { return status.starts_with("200"); });
    CHECK(lines.size() == static_cast<std::size_t>(answered));
  } else {
    CHECK(lines == expected);
  }
  if (seen.empty()) return;
  for (const auto& line : one.expected) {
    check_header(seen.back(), line, "with ", "without ");
    if (line.starts_with("body ")) CHECK(seen.back().body == unescape(line.substr(5)));
    if (line.starts_with("raw ")) CHECK(seen.back().raw_body == unescape(line.substr(4)));
  }
}

void run(const ConformanceCase& one, Pieces pieces, std::size_t place, Plane& plane, Recorder& recorder) {
  const Wanted wanted = wanted_of(one);
  recorder.take();
  Wire wire = Wire::connect(plane.address());
  const bool is_incomplete = wanted.fate == "nothing";
  const std::string message = is_incomplete ? one.message : one.message + std::string(kInnocent);
  // A refused client may find its later writes failing; the answer is there all the same.
  for (const auto part : cut(message, pieces, place)) {
    if (!wire.write(part)) break;
  }
  if (is_incomplete) wire.shutdown_write();
  Response last;
  for (const std::string& status : wanted.statuses) {
    last = read_response(wire, status.ends_with('h'));
    while (last.status == 100 && status != "100") last = read_response(wire, status.ends_with('h'));
    CHECK(std::to_string(last.status) == status.substr(0, 3));
    CHECK(last.complete);
    if (last.status == 400) check_problem(last);
    if (std::to_string(last.status) != status.substr(0, 3)) return;
  }
  for (const auto& line : one.expected) check_header(last, line, "answer ", "answer without ");
  std::vector<Received> seen;
  if (wanted.fate == "keep") {
    const Response innocent = read_response(wire);
    CHECK(innocent.status == 200);
    CHECK(innocent.body == "GET /innocent HTTP/1.1");
    seen = recorder.take();
    REQUIRE_FALSE(seen.empty());
    CHECK(seen.back().head.starts_with("GET /innocent HTTP/1.1\r\n"));
    seen.pop_back();
  } else {
    CHECK(wire.at_end());
    seen = recorder.take();
  }
  check_seen(one, wanted, seen);
}

}  // namespace

TEST_CASE("conformance: every request ends as the RFCs and our own rules say, however it is cut") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  Recorder recorder;
  Plane plane;
  Plane trusting([](roles::ProxyOptions& options) { options.trusted_proxies = {"127.0.0.1"}; });
  plane.route("f", {recorder.address()});
  trusting.route("f", {recorder.address()});
  std::size_t cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(CONFORMANCE_DIRECTORY "/requests")) {
    for (const ConformanceCase& one : read_conformance_cases(entry.path())) {
      ++cases;
      for (const Pieces pieces : kAllPieces) {
        if (one.has("whole") && pieces != Pieces::whole) continue;
        const std::size_t place = random();
        INFO(one.file << ":" << one.line << ": " << one.title << " (" << one.source << "), " << to_string(pieces)
                      << ", seed " << seed);
        INFO(printable(one.message));
        run(one, pieces, place, one.has("trusted") ? trusting : plane, recorder);
      }
    }
  }
  CHECK(cases >= 250);
  CHECK(plane.in_flight() == 0);
  CHECK(trusting.in_flight() == 0);
}
