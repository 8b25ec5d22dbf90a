// SPDX-License-Identifier: MIT
//
// What the words and flags of `dirigent bench` mean, checked before anything is registered or called. Pure but for the
// files it reads (a trace, a body).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "dirigent/bench/deployment.h"
#include "dirigent/bench/plan.h"
#include "dirigent/bench/report.h"

namespace dirigent::cli {

enum class BenchMode { closed, load, sweep, trace, replay };

// One word of the command line: a function with what comes behind it, or a URL.
struct BenchTarget {
  std::string function;  // "" of a URL
  std::string rest;      // "/path?query", "?query" or ""
  std::string endpoint;  // of a URL
};

struct BenchOptions {
  BenchMode mode = BenchMode::closed;
  std::vector<BenchTarget> targets;
  std::vector<std::string> addresses;  // of data planes; empty: what a registration says, else the default
  bool by_host = false;                // functions are named by Host, else by the path
  bench::Plan plan;                    // all but endpoints and targets
  std::vector<double> sweep_rates;
  Duration cooldown = 10s;
  Duration settle = 1s;  // after the registrations, where functions are found cold

  std::optional<bench::DeployOptions> deploy;
  std::uint32_t functions = 1;  // to deploy, for each word
  bool keep = false;            // do not delete them

  std::string output, csv, plot;
  std::vector<bench::Assertion> assertions;
  bool quiet = false;
};

const std::vector<Flag>& bench_flags();
std::string bench_help();
Result<BenchOptions> bench_options(const Arguments& arguments);

constexpr const char* kDefaultDataPlane = "127.0.0.1:8080";

}  // namespace dirigent::cli
