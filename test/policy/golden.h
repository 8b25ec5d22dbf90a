// SPDX-License-Identifier: MIT
//
// Reads the golden cases of test/policy/cases and counts what passed, group by group, for the test's output.
#pragma once

#include <fmt/core.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "catch.h"
#include "dirigent/base/time.h"

namespace golden {

using Json = nlohmann::json;

inline Json load(const std::string& name) {
  const std::string path = std::string(GOLDEN_CASES) + "/" + name + ".json";
  std::ifstream file(path);
  INFO("golden cases are read from " << path);
  REQUIRE(file.good());
  Json cases = Json::parse(file);
  REQUIRE(!cases.empty());
  return cases;
}

// Counts the cases of a group and prints the count at the end of its test.
class Group {
 public:
  explicit Group(std::string name) : name_(std::move(name)) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    fmt::print("golden group {}: {} passed{}\n", name_, passed_,
               failed_ == 0 ? "" : fmt::format(", {} FAILED", failed_));
  }

  void count(bool good) { ++(good ? passed_ : failed_); }

 private:
  std::string name_;
  int passed_ = 0;
  int failed_ = 0;
};

inline dirigent::Instant at(double seconds) { return dirigent::Instant(dirigent::from_seconds(seconds)); }
inline dirigent::Duration span(double seconds) { return dirigent::from_seconds(seconds); }

}  // namespace golden

// Checks and tells the group: a failing case is shown by the framework and counted as failed.
#define GOLDEN_CHECK(good, condition) \
  do {                                \
    CHECK(condition);                 \
    (good) = (good) && (condition);   \
  } while (false)
