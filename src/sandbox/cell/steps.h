// SPDX-License-Identifier: MIT
//
// How the cell program says what went wrong: every step returns a Failure, empty when it worked, whose text names the
// step, the object and the system's words. It travels to the worker as it is.
#pragma once

#include <string>
#include <string_view>

namespace dirigent::sandbox::cell {

struct Failure {
  std::string text;        // "" = no failure
  bool not_found = false;  // what the order names is not there

  explicit operator bool() const { return !text.empty(); }
};

// "cannot WHAT PATH: No such file or directory (errno 2)", from errno.
Failure errno_failure(std::string_view what, std::string_view path);
Failure failure_with(int error, std::string_view what, std::string_view path);

// Writes `text` to an existing file in one write.
Failure write_file(const std::string& path, std::string_view text);
// mkdir -p with mode 0755; an existing directory is fine.
Failure make_directories(const std::string& path);
// Creates an empty file when there is none.
Failure touch(const std::string& path);
// Microseconds of the monotonic clock.
unsigned long long now_us();

}  // namespace dirigent::sandbox::cell
