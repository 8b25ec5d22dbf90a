// SPDX-License-Identifier: MIT
//
// A comma-separated file whose errors name file, line and column.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::workload {

class CsvFile {
 public:
  // Reads the header. Errors: not_found, invalid_argument (no header).
  static Result<CsvFile> open(const std::string& path);

  // The place of a column. Errors: invalid_argument, naming those there are.
  [[nodiscard]] Result<std::size_t> column(std::string_view name) const;
  [[nodiscard]] const std::vector<std::string>& header() const { return header_; }

  // The next row; false at the end. A row with another number of fields than the header is an error.
  Result<bool> next();
  [[nodiscard]] std::string_view text(std::size_t column) const { return fields_[column]; }
  // Errors: invalid_argument when it is no number, or not within the bounds.
  [[nodiscard]] Result<double> number(std::size_t column, double low, double high) const;

 private:
  [[nodiscard]] std::string where(std::size_t column) const;

  std::string path_;
  std::ifstream file_;
  std::size_t line_number_ = 1;
  std::string line_;
  std::vector<std::string> header_;
  std::vector<std::string_view> fields_;  // into line_
};

}  // namespace dirigent::workload
