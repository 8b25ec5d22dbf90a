// SPDX-License-Identifier: MIT
#include "cli/ctl/front_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "dirigent/base/text.h"
#include "dirigent/io/address.h"

namespace dirigent::cli {

namespace {

constexpr std::string_view kBackend = "dirigent_data_planes";
// A slot that is nobody's has to have some address.
constexpr std::string_view kNowhere = "127.0.0.1:1";

// Functions are told apart by the path or the host, as data planes do it, and each goes to the same data plane while that
// one is not much busier than the others: few data planes then share a sandbox's concurrency limit. A data plane that is
// about to leave answers its checks with 503 first. What could not even be connected is tried elsewhere; a request that
// may have been read is not sent twice.
constexpr std::string_view kGlobal = R"(# Written by `dirigent ctl haproxy-config`; what is changed by hand is lost with its next run.
global
    stats socket {socket} mode 600 level admin
    log stderr format raw local0 notice

defaults
    mode http
    log global
    option dontlognull
    option http-keep-alive
    option redispatch 1
    retries 3
    retry-on conn-failure
    http-reuse always
    timeout connect 2s
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout queue 60s
    # Data planes have limits of their own, by function; these only bound what has been forgotten.
    timeout client 1h
    timeout server 1h
    timeout tunnel 24h
    default-server inter 500ms fastinter 100ms downinter 500ms fall 2 rise 1

frontend dirigent_invocations
    bind {bind}
    http-request set-var(txn.function) path,field(3,/) if {{ path_beg /function/ /async-function/ }}
    http-request set-var(txn.function) req.hdr(host) unless {{ path_beg /function/ /async-function/ }}
    default_backend {backend}

backend {backend}
    balance hash var(txn.function)
    hash-type consistent
    hash-balance-factor 125
    option httpchk GET /healthz
    http-check expect status 200
)";

constexpr std::string_view kForm = R"(
listen dirigent_registration
    bind {bind}
    option httpchk GET /health
    http-check expect status 200
)";

std::string slot_name(std::size_t i) { return fmt::format("plane{}", i + 1); }

}  // namespace

std::string front_configuration(const FrontOptions& options, const std::vector<FrontSlot>& slots) {
  std::string text = fmt::format(fmt::runtime(kGlobal), fmt::arg("socket", options.socket), fmt::arg("bind", options.bind), fmt::arg("backend", kBackend));
  const std::string_view protocol = options.is_h2 ? " proto h2 ws h1" : "";
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const bool is_used = !slots[i].address.empty();
    text += fmt::format("    server {} {} check{}{}\n", slot_name(i), is_used ? slots[i].address : kNowhere, protocol, is_used ? "" : " disabled");
  }
  if (options.form_bind.empty()) return text;
  text += fmt::format(fmt::runtime(kForm), fmt::arg("bind", options.form_bind));
  for (std::size_t i = 0; i < options.form_servers.size(); ++i) text += fmt::format("    server control{} {} check\n", i + 1, options.form_servers[i]);
  return text;
}

bool is_front_address(std::string_view address) {
  const auto parsed = io::parse_address(std::string(address));
  if (!parsed || parsed->is_unix() || parsed->port == 0) return false;
  return !parsed->host.empty() && parsed->host != "0.0.0.0" && parsed->host != "::" && io::to_socket_address(*parsed).has_value();
}

// A line "1", a line "# NAME NAME ...", then a line of values for each server.
Result<std::vector<FrontSlot>> read_front_slots(std::string_view answer) {
  std::vector<std::string> names;
  std::map<std::size_t, FrontSlot> found;
  for (const auto line : split(answer, '\n')) {
    std::vector<std::string> words;
    for (const auto word : split(line, ' ')) {
      if (!word.empty()) words.emplace_back(word);
    }
    if (words.size() < 3) continue;
    if (words.front() == "#") {
      names.assign(words.begin() + 1, words.end());
      continue;
    }
    std::map<std::string, std::string> values;
    for (std::size_t i = 0; i < words.size() && i < names.size(); ++i) values[names[i]] = words[i];
    const std::string& name = values["srv_name"];
    const std::int64_t number = name.starts_with("plane") ? parse_integer(name.substr(5)).value_or(0) : 0;
    const auto admin = parse_integer(values["srv_admin_state"]);
    const auto operational = parse_integer(values["srv_op_state"]);
    if (number < 1 || !admin || !operational || values["srv_addr"].empty() || values["srv_port"].empty()) continue;
    constexpr std::int64_t kMaintenance = 0x63;  // by a command, by "disabled" in the configuration, inherited, by name resolution
    FrontSlot slot;
    if ((*admin & kMaintenance) == 0) {
      const std::string& host = values["srv_addr"];
      slot.address = fmt::format(fmt::runtime(host.find(':') == std::string::npos ? "{}:{}" : "[{}]:{}"), host, values["srv_port"]);
      slot.is_up = *operational != 0;
    }
    found[static_cast<std::size_t>(number - 1)] = slot;
  }
  if (found.empty() || found.rbegin()->first + 1 != found.size()) {
    return failure(ErrorCode::corrupt, "HAProxy has no servers plane1, plane2, ... in a backend {} (start it with the configuration that this command writes): {}", kBackend,
                   answer.substr(0, 200));
  }
  std::vector<FrontSlot> slots;
  for (auto& [number, slot] : found) slots.push_back(std::move(slot));
  return slots;
}

FrontChanges FrontKeeper::update(const std::vector<FrontSlot>& slots, const std::vector<std::string>& planes, Instant now) {
  FrontChanges changes;
  changes.slots = slots;
  const std::set<std::string> wanted(planes.begin(), planes.end());
  std::set<std::string> placed;
  const auto server = [&](std::size_t slot) { return fmt::format("set server {}/{}", kBackend, slot_name(slot)); };
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::string& address = slots[i].address;
    if (address.empty()) continue;
    const bool is_double = !placed.insert(address).second;
    if (wanted.count(address) != 0 && !is_double) {
      missing_since_.erase(address);
      continue;
    }
    const Instant since = missing_since_.try_emplace(address, now).first->second;
    if (!is_double && (slots[i].is_up || now - since < kMissingPatience)) continue;
    if (!is_double) missing_since_.erase(address);
    changes.commands.push_back(server(i) + " state maint");
    changes.slots[i] = {};
    changes.words.push_back(address + " is gone");
  }
  std::erase_if(missing_since_, [&](const auto& missing) { return placed.count(missing.first) == 0; });
  for (const std::string& address : planes) {
    if (!placed.insert(address).second) continue;
    const auto free = std::find_if(changes.slots.begin(), changes.slots.end(), [](const FrontSlot& slot) { return slot.address.empty(); });
    if (free == changes.slots.end()) {
      changes.left_out.push_back(address);
      continue;
    }
    const auto slot = static_cast<std::size_t>(free - changes.slots.begin());
    const auto parsed = io::parse_address(address);
    // Its first check has to pass before it gets requests. HAProxy takes it for healthy when it leaves the maintenance, so
    // all of this is one line.
    changes.commands.push_back(fmt::format("{0} addr {1} port {2}; {0} state ready; {0} health down", server(slot), parsed->host, parsed->port));
    *free = {address, false};
    changes.words.push_back(address + " serves");
  }
  return changes;
}

}  // namespace dirigent::cli
