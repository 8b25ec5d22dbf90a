// SPDX-License-Identifier: MIT
//
// The public traces of Azure Functions, in the forms of 2019 (counts per minute and percentiles) and 2021 (single
// invocations).
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <unordered_map>

#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "dirigent/workload/workload.h"
#include "workload/csv.h"

namespace dirigent::workload {

namespace {

constexpr Duration kRunTimeMin = 1ms;
constexpr Duration kRunTimeMax = 60s;
constexpr double kMinute = 60;  // seconds
constexpr double kInvocationsPerMinuteMax = 10e6;
constexpr std::array<double, 7> kQuantiles{0, 0.01, 0.25, 0.50, 0.75, 0.99, 1};
constexpr std::array<std::string_view, 7> kQuantileNames{"0", "1", "25", "50", "75", "99", "100"};

using Percentiles = std::array<double, 7>;  // milliseconds

FunctionName name_of(std::size_t number, std::string_view hash) {
  std::string name = fmt::format("f{:04}-{}", number, to_lower(hash.substr(0, 8)));
  for (char& c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))) c = '-';
  }
  if (name.back() == '-') name.push_back('0');
  return FunctionName{name};
}

Result<std::unordered_map<std::string, Percentiles>> read_durations(const std::string& path) {
  auto csv = CsvFile::open(path);
  if (!csv) return failure(csv.error());
  const auto key = csv->column("HashFunction");
  if (!key) return failure(key.error());
  std::array<std::size_t, 7> columns{};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto column = csv->column(fmt::format("percentile_Average_{}", kQuantileNames[i]));
    if (!column) return failure(column.error());
    columns[i] = *column;
  }
  std::unordered_map<std::string, Percentiles> all;
  for (;;) {
    const auto more = csv->next();
    if (!more) return failure(more.error());
    if (!*more) return all;
    Percentiles row{};
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const auto value = csv->number(columns[i], 0, 1e9);
      if (!value) return failure(value.error());
      row[i] = *value;
    }
    all.emplace(std::string(csv->text(*key)), row);
  }
}

Result<std::unordered_map<std::string, Bytes>> read_memory(const std::string& path) {
  auto csv = CsvFile::open(path);
  if (!csv) return failure(csv.error());
  const auto key = csv->column("HashFunction");
  if (!key) return failure(key.error());
  const auto average = csv->column("AverageAllocatedMb");
  if (!average) return failure(average.error());
  std::unordered_map<std::string, Bytes> all;
  for (;;) {
    const auto more = csv->next();
    if (!more) return failure(more.error());
    if (!*more) return all;
    const auto value = csv->number(*average, 0, 1e6);
    if (!value) return failure(value.error());
    all.emplace(std::string(csv->text(*key)), Bytes{static_cast<std::int64_t>(std::max(*value, 16.0)) << 20});
  }
}

Duration draw_run_time(const Percentiles& percentiles, Rng& rng) {
  const double q = rng.unit();
  std::size_t upper = 1;
  while (upper + 1 < kQuantiles.size() && q > kQuantiles[upper]) ++upper;
  const double part = (q - kQuantiles[upper - 1]) / (kQuantiles[upper] - kQuantiles[upper - 1]);
  const double milliseconds =
      percentiles[upper - 1] + part * std::max(0.0, percentiles[upper] - percentiles[upper - 1]);
  return std::clamp(from_seconds(milliseconds / 1000), kRunTimeMin, kRunTimeMax);
}

// Where `count` invocations lie within a minute, in seconds from its start, ascending.
void spread(std::size_t count, Spacing spacing, Rng& rng, std::vector<double>& times) {
  const bool exponential = spacing == Spacing::exponential || spacing == Spacing::exponential_shift;
  const bool uniform = spacing == Spacing::uniform || spacing == Spacing::uniform_shift;
  times.resize(count);
  double sum = 0;
  for (double& gap : times) {
    gap = exponential ? rng.exponential(1) : uniform ? rng.unit() : 1;
    sum += gap;
  }
  double at = 0;
  for (double& time : times) {
    const double gap = sum > 0 ? time / sum * kMinute : kMinute / static_cast<double>(count);
    time = at;
    at += gap;
  }
  if (spacing == Spacing::exponential_shift || spacing == Spacing::uniform_shift) {
    const double turn = rng.unit() * kMinute;
    for (double& time : times) time = std::fmod(time + turn, kMinute);
    std::sort(times.begin(), times.end());
  }
}

void sort_arrivals(Workload& workload) {
  std::stable_sort(workload.arrivals.begin(), workload.arrivals.end(),
                   [](const Arrival& a, const Arrival& b) { return a.at < b.at; });
}

Result<Workload> read_counts(const std::string& folder, const TraceOptions& options) {
  const auto durations = read_durations(folder + "/durations.csv");
  if (!durations) return failure(durations.error());
  const auto memory = read_memory(folder + "/memory.csv");
  if (!memory) return failure(memory.error());
  auto csv = CsvFile::open(folder + "/invocations.csv");
  if (!csv) return failure(csv.error());
  const auto key = csv->column("HashFunction");
  if (!key) return failure(key.error());
  std::vector<std::size_t> minutes;  // their columns
  for (std::size_t i = 0; i < csv->header().size(); ++i) {
    if (parse_integer(csv->header()[i])) minutes.push_back(i);
  }
  if (minutes.empty())
    return failure(ErrorCode::invalid_argument, "{}/invocations.csv:1:1: no column is the number of a minute", folder);
  if (options.minutes != 0 && minutes.size() > options.minutes) minutes.resize(options.minutes);

  Workload workload;
  workload.source = std::filesystem::path(folder).lexically_normal().filename().string();
  workload.length = static_cast<std::int64_t>(minutes.size()) * 60s;
  Rng rng(options.seed);
  std::vector<double> times;
  for (;;) {
    const auto more = csv->next();
    if (!more) return failure(more.error());
    if (!*more) break;
    const std::string hash(csv->text(*key));
    const auto percentiles = durations->find(hash);
    if (percentiles == durations->end()) {
      return failure(ErrorCode::invalid_argument, "{}/durations.csv has no row for function {} of invocations.csv",
                     folder, hash);
    }
    const auto allocated = memory->find(hash);
    const auto number = static_cast<std::uint32_t>(workload.functions.size());
    workload.functions.push_back({name_of(number, hash), allocated == memory->end() ? 128_MiB : allocated->second});
    for (std::size_t minute = 0; minute < minutes.size(); ++minute) {
      const auto count = csv->number(minutes[minute], 0, kInvocationsPerMinuteMax);
      if (!count) return failure(count.error());
      if (*count < 1) continue;
      spread(static_cast<std::size_t>(*count), options.spacing, rng, times);
      for (const double time : times) {
        workload.arrivals.push_back({from_seconds(static_cast<double>(minute) * kMinute + time), number,
                                     draw_run_time(percentiles->second, rng)});
      }
    }
  }
  sort_arrivals(workload);
  return workload;
}

Result<Workload> read_invocations(const std::string& path, const TraceOptions& options) {
  auto csv = CsvFile::open(path);
  if (!csv) return failure(csv.error());
  std::array<std::size_t, 4> columns{};
  constexpr std::array<std::string_view, 4> kNames{"app", "func", "end_timestamp", "duration"};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto column = csv->column(kNames[i]);
    if (!column) return failure(column.error());
    columns[i] = *column;
  }
  Workload workload;
  workload.source = std::filesystem::path(path).filename().string();
  std::unordered_map<std::string, std::uint32_t> numbers;
  for (;;) {
    const auto more = csv->next();
    if (!more) return failure(more.error());
    if (!*more) break;
    const auto end = csv->number(columns[2], 0, 1e9);
    if (!end) return failure(end.error());
    const auto seconds = csv->number(columns[3], 0, 1e6);
    if (!seconds) return failure(seconds.error());
    // The function's name is unique within its application only.
    const std::string identity = std::string(csv->text(columns[0])) + "/" + std::string(csv->text(columns[1]));
    const auto [known, is_new] = numbers.try_emplace(identity, static_cast<std::uint32_t>(numbers.size()));
    if (is_new) workload.functions.push_back({name_of(known->second, csv->text(columns[1])), 128_MiB});
    const Duration at = from_seconds(std::max(0.0, *end - *seconds));
    if (options.minutes != 0 && at >= options.minutes * 60s) continue;
    workload.arrivals.push_back({at, known->second, std::clamp(from_seconds(*seconds), kRunTimeMin, kRunTimeMax)});
  }
  sort_arrivals(workload);
  workload.length = workload.arrivals.empty() ? 1s : workload.arrivals.back().at + 1s;
  return workload;
}

}  // namespace

const std::vector<std::string>& spacing_names() {
  static const std::vector<std::string> names{"exponential", "equidistant", "uniform", "exponential_shift",
                                              "uniform_shift"};
  return names;
}

Result<Spacing> parse_spacing(std::string_view word) {
  const auto& names = spacing_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == word) return static_cast<Spacing>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown spacing \"{}\"{}", word, did_you_mean_suffix(word, names));
}

Result<Workload> read_trace(const std::string& path, const TraceOptions& options) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return failure(ErrorCode::not_found, "there is no trace at {} (a folder of Azure 2019, or a file of Azure 2021)",
                   path);
  return std::filesystem::is_directory(status) ? read_counts(path, options) : read_invocations(path, options);
}

}  // namespace dirigent::workload
