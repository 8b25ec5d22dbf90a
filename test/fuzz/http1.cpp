// SPDX-License-Identifier: MIT
//
// Fuzzes the HTTP/1 front end: every input goes through the parsers and through a whole data plane on real sockets. The
// seeds are the messages of the conformance suite.
#include "http1.h"

#include <fmt/format.h>

#include <filesystem>

#include "mutation.h"
#include "roles/data/conformance_cases.h"

using namespace dirigent;

namespace {

std::vector<fuzz::Input> seeds() {
  std::vector<fuzz::Input> all;
  const auto each = [](const char* directory, auto take) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      for (const auto& one : test::read_conformance_cases(entry.path())) {
        if (one.message.size() < 8 * 1024) take(one.message);
      }
    }
  };
  each(CONFORMANCE_DIRECTORY "/requests", [&](const std::string& message) {
    all.push_back({{message, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}, all.size()});
  });
  each(CONFORMANCE_DIRECTORY "/answers", [&](const std::string& message) {
    all.push_back({{"GET /a HTTP/1.1\r\nHost: f\r\n\r\nGET /b HTTP/1.1\r\nHost: f\r\n\r\n", message}, all.size()});
    all.push_back({{"GET /a HTTP/1.0\r\nHost: f\r\n\r\n", message}, all.size()});
  });
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  fuzz::ShardCheck shard;
  fuzz::Target target;
  target.name = "http1";
  target.seeds = seeds();
  target.mutate = fuzz::mutate_http_text;
  target.run = [&](const fuzz::Input& input) {
    if (input.parts.size() != 2) return fuzz::Outcome{"an input of this target has two parts", 0};
    fuzz::Outcome outcome = fuzz::check_parsers(input);
    if (outcome.finding) return outcome;
    const fuzz::Outcome whole = shard.run(input);
    outcome.finding = whole.finding;
    fuzz::mix(outcome.behaviour, whole.behaviour);
    return outcome;
  };
  return fuzz::run_fuzzer(argc, argv, target);
}
