// SPDX-License-Identifier: MIT
#include "bench/request_bytes.h"

#include "dirigent/base/text.h"

namespace dirigent::bench {

std::vector<std::pair<std::string, std::string>> header_fields(const Plan& plan, const Target& target,
                                                               bool lower_case) {
  std::vector<std::pair<std::string, std::string>> fields;
  bool has_length = false;
  const auto put = [&](std::string_view name, std::string value) {
    fields.emplace_back(lower_case ? to_lower(name) : std::string(name), std::move(value));
  };
  bool has_agent = false;
  for (const auto& [name, value] : plan.request.headers) {
    const std::string lower = to_lower(name);
    if (lower == "host") continue;  // the authority says it
    has_agent |= lower == "user-agent";
    has_length |= lower == "content-length";
    put(name, value);
  }
  if (!has_agent) put("User-Agent", "dirigent-bench");
  if (plan.request.invitro) {
    put("Workload", target.image);
    put("Function", target.function);
    put("Requested_memory", fmt::format("{}", target.memory_mib));
    put("Multiplier", "80");
    put("Io_percentage", "0");
  }
  const std::string& method = plan.request.method;
  const bool wants_length = !plan.request.body.empty() || method == "POST" || method == "PUT" || method == "PATCH";
  if (wants_length && !has_length) put("Content-Length", fmt::format("{}", plan.request.body.size()));
  return fields;
}

RequestBytes::RequestBytes(const Plan& plan) : has_run_time_(plan.request.invitro) {
  heads_.reserve(plan.targets.size());
  for (const Target& target : plan.targets) {
    Head head;
    head.before = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", plan.request.method, target.path, target.authority);
    for (const auto& [name, value] : header_fields(plan, target, false))
      head.before += fmt::format("{}: {}\r\n", name, value);
    if (has_run_time_) {
      head.before += "Requested_cpu: ";
      head.after = "\r\n\r\n";
    } else {
      head.before += "\r\n";
    }
    heads_.push_back(std::move(head));
  }
}

void RequestBytes::append_head(std::string& out, std::uint32_t target, Duration run_time) const {
  const Head& head = heads_[target];
  out += head.before;
  if (!has_run_time_) return;
  fmt::format_to(std::back_inserter(out), "{}", run_time / 1ms);
  out += head.after;
}

}  // namespace dirigent::bench
