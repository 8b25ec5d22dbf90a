// SPDX-License-Identifier: MIT
//
// Invocations as a load generator wrote them.
#include <algorithm>
#include <array>
#include <unordered_map>

#include "dirigent/base/text.h"
#include "dirigent/workload/workload.h"
#include "workload/csv.h"

namespace dirigent::workload {

Result<Workload> read_recording(const std::string& path) {
  auto csv = CsvFile::open(path);
  if (!csv) return failure(csv.error());
  constexpr std::array<std::string_view, 3> kNames{"instance", "startTime", "requestedDuration"};
  std::array<std::size_t, 3> columns{};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto column = csv->column(kNames[i]);
    if (!column) return failure(column.error());
    columns[i] = *column;
  }
  Workload workload;
  workload.source = path.substr(path.rfind('/') + 1);
  std::unordered_map<std::string, std::uint32_t> numbers;
  for (;;) {
    const auto more = csv->next();
    if (!more) return failure(more.error());
    if (!*more) break;
    // Microseconds since 1970 are exact in a double for another two centuries.
    const auto start_us = csv->number(columns[1], 0, 9e15);
    if (!start_us) return failure(start_us.error());
    const auto run_us = csv->number(columns[2], 0, 3.6e9);
    if (!run_us) return failure(run_us.error());
    const std::string_view instance = trim(csv->text(columns[0]));
    if (instance.empty()) continue;  // a request that found no function: there is nothing to call again
    const auto [known, is_new] = numbers.try_emplace(std::string(instance), static_cast<std::uint32_t>(numbers.size()));
    if (is_new) {
      auto name = parse_function_name(instance);
      if (!name) return failure(name.error().within(path));
      workload.functions.push_back({std::move(*name), 128_MiB});
    }
    workload.arrivals.push_back({std::chrono::microseconds(static_cast<std::int64_t>(*start_us)), known->second,
                                 std::chrono::microseconds(static_cast<std::int64_t>(*run_us))});
  }
  if (workload.arrivals.empty()) return failure(ErrorCode::invalid_argument, "{}: there is no invocation in it", path);
  auto& arrivals = workload.arrivals;
  std::stable_sort(arrivals.begin(), arrivals.end(), [](const Arrival& a, const Arrival& b) { return a.at < b.at; });
  const Duration first = arrivals.front().at;
  for (Arrival& arrival : arrivals) arrival.at -= first;
  workload.length = arrivals.back().at + 1s;
  return workload;
}

}  // namespace dirigent::workload
