// SPDX-License-Identifier: MIT
#include <algorithm>
#include <functional>

#include "cli/settings.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"
#include "dirigent/model/function.h"

namespace dirigent::cli {

namespace {

const std::vector<std::string> kRuntimes{"process", "oci", "containerd", "simulated"};

Result<std::uint32_t> whole_number(std::string_view text, std::int64_t low, std::int64_t high) {
  const auto number = parse_integer(text);
  if (number && *number >= low && *number <= high) return static_cast<std::uint32_t>(*number);
  return failure(ErrorCode::invalid_argument, "\"{}\" is not a whole number in {}..{}", text, low, high);
}

// Reads values one after the other; the first error stays.
class Binder {
 public:
  explicit Binder(const Settings& settings) : settings_(settings) {}

  template <class T>
  void parse(std::string_view key, T& out, const std::function<Result<T>(std::string_view)>& parser) {
    const Value& value = settings_[key];
    auto parsed = parser(value.texts.empty() ? std::string_view() : std::string_view(value.texts.front()));
    if (parsed) {
      out = std::move(*parsed);
    } else {
      fail(key, parsed.error());
    }
  }

  void text(std::string_view key, std::string& out) {
    out = settings_[key].texts.empty() ? "" : settings_[key].texts.front();
  }

  void flag(std::string_view key, bool& out) {
    parse<bool>(key, out, [](std::string_view text) -> Result<bool> {
      if (text == "true" || text == "1" || text == "yes" || text == "on") return true;
      if (text == "false" || text == "0" || text == "no" || text == "off") return false;
      return failure(ErrorCode::invalid_argument, "\"{}\" is not true or false", text);
    });
  }

  void number(std::string_view key, std::uint32_t& out, std::int64_t low, std::int64_t high) {
    parse<std::uint32_t>(key, out, [&](std::string_view text) { return whole_number(text, low, high); });
  }

  // Nothing when the setting is empty.
  void number(std::string_view key, std::optional<std::uint32_t>& out, std::int64_t low, std::int64_t high) {
    parse<std::optional<std::uint32_t>>(key, out, [&](std::string_view text) -> Result<std::optional<std::uint32_t>> {
      if (text.empty()) return std::nullopt;
      return whole_number(text, low, high);
    });
  }

  void fraction(std::string_view key, double& out) {
    parse<double>(key, out, [](std::string_view text) -> Result<double> {
      const auto number = parse_number(text);
      if (number && *number >= 0 && *number <= 1) return *number;
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a number in 0..1", text);
    });
  }

  void duration(std::string_view key, Duration& out) { parse<Duration>(key, out, parse_duration); }

  void address(std::string_view key, std::string& out) {
    parse<std::string>(key, out, [](std::string_view text) -> Result<std::string> {
      if (auto parsed = io::parse_address(text); !parsed) return failure(parsed.error());
      return std::string(text);
    });
  }

  void addresses(std::string_view key, std::vector<std::string>& out) {
    out = settings_[key].texts;
    if (out.empty()) fail(key, Error{ErrorCode::invalid_argument, "at least one address is needed"});
    for (const auto& text : out) {
      if (auto parsed = io::parse_address(text); !parsed) fail(key, parsed.error());
    }
  }

  // "a=b" entries in order.
  void pairs(std::string_view key, std::vector<std::pair<std::string, std::string>>& out) {
    out.clear();
    for (const auto& text : settings_[key].texts) {
      const auto equals = text.find('=');
      if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
        fail(key, Error{ErrorCode::invalid_argument, fmt::format("\"{}\" is not of the form {}", text,
                                                                 key == "label" ? "key=value" : "pattern=image")});
        return;
      }
      out.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
  }

  void fail(std::string_view key, const Error& error) {
    if (!status_) return;
    const Value& value = settings_[key];
    const std::string where = value.origin.starts_with("--")
                                  ? value.origin
                                  : fmt::format("{}: {}.{}", value.origin, settings_.section(), key);
    status_ = failure(error.within(where));
  }

  [[nodiscard]] const Settings& settings() const { return settings_; }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  const Settings& settings_;
  Status status_;
};

void bind_process(Binder& bind, ProcessOptions& options) {
  bind.parse<LogLevel>("log_level", options.log_level, parse_log_level);
  bind.parse<LogFormat>("log_format", options.log_format, parse_log_format);
  bind.flag("print_addresses", options.print_addresses);
  bind.flag("exit_with_stdin", options.exit_with_stdin);
  bind.duration("drain_time", options.drain_time);
}

void bind_policies(Binder& bind, PolicyOptions& options) {
  bind.text("state_dir", options.state_dir);
  bind.parse<policy::AutoscalerKind>("autoscaler", options.autoscaler, policy::parse_autoscaler);
  bind.parse<policy::PlacementKind>("placement", options.placement, policy::parse_placement);
  bind.parse<std::string>("form_profile", options.form_profile, [](std::string_view text) -> Result<std::string> {
    if (auto profile = scaling_profile(text); !profile) return failure(profile.error());
    return std::string(text);
  });
  bind.flag("form_sweep", options.form_sweep);
  bind.text("load_balancer_address", options.load_balancer_address);
  bind.pairs("image_map", options.image_map);
  for (const auto& [pattern, image] : options.image_map) {
    if (auto parsed = parse_image(image); !parsed) bind.fail("image_map", parsed.error());
  }
}

// An absent amount is zero: the machine is asked.
template <class T>
std::function<Result<T>(std::string_view)> optional(Result<T> (*parser)(std::string_view)) {
  return [parser](std::string_view text) -> Result<T> { return text.empty() ? Result<T>(T{}) : parser(text); };
}

void bind_node(Binder& bind, NodeOptions& options) {
  bind.parse<std::string>("node_name", options.name, [](std::string_view text) -> Result<std::string> {
    if (auto id = text.empty() ? Result<NodeId>(NodeId{}) : parse_node_id(text); !id) return failure(id.error());
    return std::string(text);
  });
  bind.parse<RuntimeKind>("runtime", options.runtime, parse_runtime);
  bind.parse<Millicpu>("cpu", options.capacity.cpu, optional<Millicpu>(parse_cpu));
  bind.parse<Bytes>("memory", options.capacity.memory, optional<Bytes>(parse_bytes));
  bind.number("sandboxes_max", options.sandboxes_max, 0, 1'000'000);
  bind.number("starts_max", options.starts_max, 0, 1'000'000);
  bind.number("parked_sandboxes", options.parked_sandboxes, 0, 1'000);
  bind.text("image_dir", options.image_dir);
  bind.parse<Bytes>("image_cache_max", options.image_cache_max, parse_bytes);
  bind.parse<std::string>("pull", options.pull, [](std::string_view text) -> Result<std::string> {
    const std::string word = to_lower(text);
    if (word == "never" || word == "missing" || word == "always") return word;
    return failure(ErrorCode::invalid_argument, "\"{}\" is not one of never, missing, always", text);
  });
  bind.text("registry_auth", options.registry_auth);
  options.insecure_registries = bind.settings()["insecure_registry"].texts;
  bind.flag("root_writable", options.root_writable);
  bind.flag("user_namespaces", options.user_namespaces);
  bind.text("oci_program", options.oci_program);
  bind.text("containerd_address", options.containerd_address);
  bind.flag("shared_shim", options.shared_shim);
  bind.text("cni_conf", options.cni_conf);
  bind.text("cni_bin", options.cni_bin);
  bind.text("cni_state", options.cni_state);
  std::vector<std::pair<std::string, std::string>> labels;
  bind.pairs("label", labels);
  options.labels = {labels.begin(), labels.end()};
  bind.duration("simulated_start_p50", options.simulated_start_p50);
  bind.duration("simulated_start_p99", options.simulated_start_p99);
  if (options.simulated_start_p99 < options.simulated_start_p50) {
    bind.fail("simulated_start_p99", Error{ErrorCode::invalid_argument, "must not be below simulated_start_p50"});
  }
}

template <class Options>
void bind_data(Binder& bind, Options& options) {
  bind.address("listen", options.listen);
  bind.number("shards", options.shards, 0, 256);
  bind.parse<policy::BalancerKind>("balancer", options.balancer, policy::parse_balancer);
  bind.flag("expose_timing", options.expose_timing);
  bind.text("access_log", options.access_log);
  bind.fraction("access_log_sample", options.access_log_sample);
  bind.parse<Bytes>("head_max", options.limits.head_max, parse_bytes);
  if (options.limits.head_max < 1_KiB || options.limits.head_max > 1_MiB) {
    bind.fail("head_max", Error{ErrorCode::invalid_argument, "must be 1KiB to 1MiB"});
  }
  bind.number("headers_max", options.limits.headers_max, 8, 256);
  bind.parse<Bytes>("target_max", options.limits.target_max, parse_bytes);
  if (options.limits.target_max < Bytes{64} || options.limits.target_max > options.limits.head_max) {
    bind.fail("target_max", Error{ErrorCode::invalid_argument, "must be 64 bytes to head_max"});
  }
  bind.duration("head_timeout", options.limits.head_timeout);
  bind.duration("keep_alive_timeout", options.limits.keep_alive_timeout);
  bind.number("requests_per_connection_max", options.limits.requests_per_connection_max, 0, 1'000'000'000);
  bind.duration("connect_timeout", options.limits.connect_timeout);
  bind.duration("sandbox_keep_alive", options.limits.sandbox_keep_alive);
  bind.number("streams_max", options.limits.streams_max, 1, 100'000);
  bind.number("connections_per_address_max", options.limits.connections_per_address_max, 0, 1'000'000);
  bind.duration("body_timeout", options.limits.body_timeout);
  bind.parse<Bytes>("body_rate_min", options.limits.body_rate_min, parse_bytes);
  bind.parse<Bytes>("body_max", options.limits.body_max, parse_bytes);
  bind.parse<Bytes>("memory_max", options.limits.memory_max, parse_bytes);
}

void bind_async(Binder& bind, roles::AsyncOptions& options) {
  using Durability = roles::AsyncOptions::Durability;
  bind.text("async_dir", options.directory);
  bind.parse<Durability>("async_durability", options.durability, [](std::string_view text) -> Result<Durability> {
    if (text == "off") return Durability::off;
    if (text == "memory") return Durability::memory;
    if (text == "group") return Durability::group;
    if (text == "sync") return Durability::sync;
    return failure(ErrorCode::invalid_argument, "\"{}\" is not one of off, memory, group, sync", text);
  });
  options.adopt = bind.settings()["async_adopt"].texts;
  bind.parse<Bytes>("async_store_max", options.store_max, parse_bytes);
  if (options.store_max < 1_MiB) bind.fail("async_store_max", Error{ErrorCode::invalid_argument, "must be at least 1MiB"});
  bind.parse<Bytes>("async_body_max", options.body_max, parse_bytes);
  if (options.body_max > 64_MiB || options.body_max.value > options.store_max.value / 16) {
    bind.fail("async_body_max", Error{ErrorCode::invalid_argument, "must be at most 64MiB and a sixteenth of async_store_max"});
  }
  bind.parse<Bytes>("async_result_max", options.result_max, parse_bytes);
  if (options.result_max > 16_MiB || options.result_max.value > options.store_max.value / 16) {
    bind.fail("async_result_max", Error{ErrorCode::invalid_argument, "must be at most 16MiB and a sixteenth of async_store_max"});
  }
  bind.number("async_max_inflight", options.inflight_max, 1, 10'000);
  bind.number("async_attempts", options.attempts_max, 1, 250);
  bind.duration("async_backoff_min", options.backoff_min);
  bind.duration("async_backoff_max", options.backoff_max);
  if (options.backoff_max < options.backoff_min) {
    bind.fail("async_backoff_max", Error{ErrorCode::invalid_argument, "must not be below async_backoff_min"});
  }
  bind.duration("async_max_age", options.age_max);
  bind.duration("async_result_keep", options.result_keep);
  bind.duration("async_dead_keep", options.dead_keep);
  bind.duration("async_clean_after", options.clean_after);
  options.callback_allow = bind.settings()["async_callback_allow"].texts;
  bind.text("async_callback_ca", options.callback_ca_file);
  bind.text("async_callback_secret", options.callback_secret_file);
}

void bind_ports(Binder& bind, WorkerOptions& options) {
  using Range = std::pair<std::uint16_t, std::uint16_t>;
  Range range;
  bind.parse<Range>("publish_ports", range, [](std::string_view text) -> Result<Range> {
    const auto dash = text.find('-');
    const auto first = parse_integer(text.substr(0, dash));
    const auto last = dash == std::string_view::npos ? std::nullopt : parse_integer(text.substr(dash + 1));
    if (!first || !last || *first < 1 || *last > 65535 || *first > *last) {
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a range of ports like 30000-39999", text);
    }
    return Range{static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(*last)};
  });
  options.publish_port_first = range.first;
  options.publish_port_last = range.second;
}

template <class Options>
Result<Options> finished(const Binder& bind, Options options) {
  if (!bind.status()) return failure(bind.status().error());
  return options;
}

}  // namespace

std::string_view to_string(RuntimeKind kind) { return kRuntimes[static_cast<std::size_t>(kind)]; }
const std::vector<std::string>& runtime_names() { return kRuntimes; }
Result<RuntimeKind> parse_runtime(std::string_view word) {
  const auto found = std::find(kRuntimes.begin(), kRuntimes.end(), word);
  if (found != kRuntimes.end()) return static_cast<RuntimeKind>(found - kRuntimes.begin());
  return failure(ErrorCode::invalid_argument, "unknown runtime \"{}\": use process, oci, containerd or simulated{}", word,
                 did_you_mean_suffix(word, kRuntimes));
}

Result<ControlOptions> control_options(const Settings& settings) {
  Binder bind(settings);
  ControlOptions options;
  bind_process(bind, options.process);
  bind_policies(bind, options.policies);
  bind.address("rpc_listen", options.rpc_listen);
  bind.address("form_listen", options.form_listen);
  bind.address("admin_listen", options.admin_listen);
  bind.number("peer_id", options.peer_id, 0, 0x7fffffff);
  options.peers = settings["peers"].texts;
  bind.text("peer_listen", options.peer_listen);
  if (!options.peer_listen.empty()) bind.address("peer_listen", options.peer_listen);
  bind.flag("peer_join", options.peer_join);
  bind.duration("election_timeout", options.election_timeout);
  if (options.election_timeout < 50ms || options.election_timeout > 10s) {
    bind.fail("election_timeout", Error{ErrorCode::invalid_argument, "must be in 50ms..10s"});
  }
  if (options.peer_id == 0 && (!options.peers.empty() || options.peer_join)) {
    bind.fail("peer_id", Error{ErrorCode::invalid_argument, "a member of a group needs an id of its own: one of those in peers"});
  }
  if (options.peer_id != 0 && options.peers.empty() && !options.peer_join) {
    bind.fail("peers", Error{ErrorCode::invalid_argument, "a group needs its members: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT"});
  }
  return finished(bind, std::move(options));
}

Result<DataOptions> data_options(const Settings& settings) {
  Binder bind(settings);
  DataOptions options;
  bind_process(bind, options.process);
  bind_data(bind, options);
  bind_async(bind, options.async);
  bind.flag("async", options.async.takes_everything);
  if (options.async.takes_everything) bind.address("async_poll_listen", options.async.poll_listen);
  options.async.directory_servers = bind.settings()["async_directory"].texts;
  if (options.async.directory.empty() && options.async.durability != roles::AsyncOptions::Durability::memory) {
    // The original keeps them in memory unless told otherwise.
    options.async.durability = options.async.takes_everything ? roles::AsyncOptions::Durability::memory
                                                              : roles::AsyncOptions::Durability::off;
  }
  bind.address("admin_listen", options.admin_listen);
  bind.addresses("control", options.control);
  bind.text("id", options.id);
  bind.text("advertise", options.advertise);
  bind.number("connections_max", options.connections_max, 1, 1'000'000);
  bind.duration("leave_notice", options.leave_notice);
  options.trusted_proxies = settings["trusted_proxy"].texts;
  return finished(bind, std::move(options));
}

Result<WorkerOptions> worker_options(const Settings& settings) {
  Binder bind(settings);
  WorkerOptions options;
  bind_process(bind, options.process);
  bind_node(bind, options.node);
  bind.address("admin_listen", options.admin_listen);
  bind.addresses("control", options.control);
  bind.number("nodes", options.nodes, 1, 100'000);
  if (options.nodes > 1 && options.node.runtime != RuntimeKind::simulated) {
    bind.fail("nodes",
              Error{ErrorCode::invalid_argument, "more than one worker in a process needs runtime \"simulated\""});
  }
  bind.text("publish_host", options.publish_host);
  bind_ports(bind, options);
  bind.duration("adopt_time", options.adopt_time);
  return finished(bind, std::move(options));
}

Result<DevOptions> dev_options(const Settings& settings) {
  Binder bind(settings);
  DevOptions options;
  bind_process(bind, options.process);
  bind_data(bind, options);
  bind.address("rpc_listen", options.rpc_listen);
  bind.address("form_listen", options.form_listen);
  bind.address("admin_listen", options.admin_listen);
  bind.address("data_admin_listen", options.data_admin_listen);
  bind_policies(bind, options.policies);
  bind_async(bind, options.async);
  if (options.async.directory.empty() && options.async.durability != roles::AsyncOptions::Durability::off) {
    if (options.policies.state_dir.empty()) {
      options.async.durability = roles::AsyncOptions::Durability::memory;
    } else {
      options.async.directory = options.policies.state_dir + "/calls";
    }
  }
  bind_node(bind, options.node);
  return finished(bind, std::move(options));
}

Status check_options(const Settings& settings) {
  const auto status_of = [](const auto& result) { return result ? Status() : Status(failure(result.error())); };
  if (settings.section() == "control") return status_of(control_options(settings));
  if (settings.section() == "data") return status_of(data_options(settings));
  if (settings.section() == "worker") return status_of(worker_options(settings));
  return status_of(dev_options(settings));
}

}  // namespace dirigent::cli
