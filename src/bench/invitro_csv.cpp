// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "dirigent/bench/report.h"

namespace dirigent::bench {

namespace {

constexpr std::string_view kHeader =
    "phase,instance,invocationID,startTime,requestedDuration,grpcConnEstablish,responseTime,actualDuration,"
    "connectionTimeout,"
    "functionTimeout,actualMemoryUsage,memoryAllocationTimeout,timeToSubmitMs,userCodeExecutionMs,"
    "timeToGetResponseMs\n";

std::string_view word(bool value) { return value ? "true" : "false"; }

}  // namespace

Status write_invitro_csv(const std::string& path, const Plan& plan, const Measurement& measurement) {
  std::vector<const Record*> order;
  for (const Record& record : measurement.records) order.push_back(&record);
  std::stable_sort(order.begin(), order.end(), [](const Record* a, const Record* b) {
    return a->start_us + a->response_us < b->start_us + b->response_us;
  });
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "we"), std::fclose);
  const auto refuse = [&] { return errno_failure(errno, fmt::format("cannot write {}", path)); };
  if (!file) return refuse();
  std::string text(kHeader);
  for (const Record* const r : order) {
    fmt::format_to(std::back_inserter(text), "{},{},min{}.inv{},{},{},{},{},{},{},{},0,{},0,0,0\n",
                   r->is_warm_up ? 1 : 2, plan.targets[r->target].function, r->minute, r->ordinal, r->start_us,
                   r->requested_us, r->head_us, r->response_us, r->actual_us, word(r->connection_timeout),
                   word(r->function_timeout), word(r->memory_failure));
    if (text.size() < 1 << 16) continue;
    if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size()) return refuse();
    text.clear();
  }
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0)
    return refuse();
  return {};
}

}  // namespace dirigent::bench
