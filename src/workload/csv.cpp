// SPDX-License-Identifier: MIT
#include "workload/csv.h"

#include "dirigent/base/text.h"

namespace dirigent::workload {

Result<CsvFile> CsvFile::open(const std::string& path) {
  CsvFile csv;
  csv.path_ = path;
  csv.file_.open(path);
  if (!csv.file_) return failure(ErrorCode::not_found, "cannot read {} (is the path right?)", path);
  if (!std::getline(csv.file_, csv.line_))
    return failure(ErrorCode::invalid_argument, "{}:1:1: the header is missing", path);
  for (const auto field : split(trim(csv.line_), ',')) csv.header_.emplace_back(trim(field));
  return csv;
}

std::string CsvFile::where(std::size_t column) const {
  const auto offset =
      column < fields_.size() ? fields_[column].data() - line_.data() : static_cast<std::ptrdiff_t>(line_.size());
  const std::string name = column < header_.size() ? header_[column] : "beyond the header";
  return fmt::format("{}:{}:{} ({})", path_, line_number_, offset + 1, name);
}

Result<std::size_t> CsvFile::column(std::string_view name) const {
  for (std::size_t i = 0; i < header_.size(); ++i) {
    if (header_[i] == name) return i;
  }
  return failure(ErrorCode::invalid_argument, "{}:1:1: there is no column \"{}\"{}", path_, name,
                 did_you_mean_suffix(name, header_));
}

Result<bool> CsvFile::next() {
  while (std::getline(file_, line_)) {
    ++line_number_;
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    if (line_.empty()) continue;
    fields_.clear();
    std::size_t begin = 0;
    for (std::size_t i = 0; i <= line_.size(); ++i) {
      if (i < line_.size() && line_[i] != ',') continue;
      fields_.push_back(std::string_view(line_).substr(begin, i - begin));
      begin = i + 1;
    }
    if (fields_.size() != header_.size()) {
      return failure(ErrorCode::invalid_argument, "{}: the row has {} fields, the header {} (is the file truncated?)",
                     where(std::min(fields_.size(), header_.size())), fields_.size(), header_.size());
    }
    return true;
  }
  if (file_.bad()) return failure(ErrorCode::corrupt, "{}:{}:1: cannot read on", path_, line_number_ + 1);
  return false;
}

Result<double> CsvFile::number(std::size_t column, double low, double high) const {
  const auto value = parse_number(trim(fields_[column]));
  if (!value) return failure(ErrorCode::invalid_argument, "{}: \"{}\" is not a number", where(column), fields_[column]);
  if (*value < low || *value > high) {
    return failure(ErrorCode::invalid_argument, "{}: {} is not within {}..{}", where(column), *value, low, high);
  }
  return *value;
}

}  // namespace dirigent::workload
