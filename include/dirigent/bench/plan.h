// SPDX-License-Identifier: MIT
//
// What a run of the load generator is to do: whom it calls, when, and how. A value, made by the command line; the
// engine only reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/workload/workload.h"

namespace dirigent::bench {

// One function, or one URL.
struct Target {
  std::string function;        // for the records and the per-function figures
  std::uint32_t endpoint = 0;  // index into Plan::endpoints
  std::string authority;       // the Host header
  std::string path = "/";
  std::string image;  // of invocations with the headers of Invitro
  std::int64_t memory_mib = 128;
};

struct Request {
  std::string method = "GET";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  // Adds the six headers that the Invitro loader sends, among them the run time of each call; an answer then counts as
  // one only if it is a 200 with a body.
  bool invitro = false;
};

enum class Protocol { http1, h2c };
enum class Pace { open, closed };

struct Plan {
  std::string description;  // "open loop, poisson, 500 req/s"
  Pace pace = Pace::open;
  Protocol protocol = Protocol::http1;
  std::vector<std::string> endpoints;  // "127.0.0.1:8080"
  std::vector<Target> targets;
  Request request;

  unsigned threads = 1;
  // HTTP/1.1: at most so many. h2c: exactly so many, shared by all functions. Over all threads and endpoints.
  unsigned connections = 10'000;
  unsigned streams = 100;  // h2c, closed loop: requests in flight on each connection
  Duration timeout = 60s;  // of a call, from its intended start

  Duration warm_up{};          // calls that begin earlier are made but not measured
  Duration length{};           // of the measured part
  std::uint64_t requests = 0;  // closed loop: instead of `length`, when not 0

  // Open loop: one of the two. Their times include the warm-up.
  std::optional<workload::Load> load;
  std::shared_ptr<const workload::Workload> workload;
  double speed = 1;     // of the workload
  Duration run_time{};  // of calls that no workload gives one
  std::uint64_t seed = 1;

  bool keep_records = false;  // a record of every call (64 bytes each)
};

}  // namespace dirigent::bench
