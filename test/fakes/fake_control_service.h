// SPDX-License-Identifier: MIT
//
// A control plane without a cluster: registrations become revisions that serve at once (or fail, when told to),
// everything else is what a test put into the fields. One loop; may be read by the test between requests.
#pragma once

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/roles/control_service.h"

namespace dirigent::fakes {

class FakeControlService final : public roles::ControlService {
 public:
  std::map<FunctionName, roles::FunctionView> functions;
  std::vector<roles::DeployRequest> deployed;   // as received, newest last
  std::vector<roles::NodeView> node_list;
  std::vector<roles::DataPlaneView> data_plane_list{{DataPlaneId{"dp1"}, "127.0.0.1:18080", 100ms, ""}};
  std::vector<LogLine> log_lines;
  std::optional<Error> deploy_error;
  std::optional<SandboxEnd> verification_end;   // set: the test start of every deployment fails like this
  std::string profile = "dirigent";
  bool leader = true;
  std::uint64_t sequence = 0;
  std::vector<std::pair<std::uint64_t, Duration>> event_waits;  // (after, wait) of every call of events()

  Result<std::vector<std::string>> explain(const FunctionName& name) override {
    if (!functions.contains(name)) return failure(ErrorCode::not_found, "function \"{}\" not found", name);
    return std::vector<std::string>{"why 1 sandbox", "", "last failure: none"};
  }

  io::Task<roles::Deployed> deploy(roles::DeployRequest request) override {
    deployed.push_back(request);
    if (deploy_error) co_return failure(*deploy_error);
    auto found = functions.find(request.name);
    if (found != functions.end() && request.create_only) {
      co_return failure(ErrorCode::already_exists, "function \"{}\" exists already", request.name);
    }
    roles::FunctionView& view = functions[request.name];
    Function& function = view.function;
    roles::Deployed result;
    result.event_sequence = sequence;
    if (!function.revisions.empty() && function.revisions.back().spec == request.spec) {
      result.changed = false;
    } else {
      const RevisionNumber number{function.revisions.empty() ? 1 : function.revisions.back().number.value + 1};
      function.name = request.name;
      if (function.revisions.empty()) function.created_at = WallTime(1'700'000'000'000'000us);
      function.revisions.push_back({number, request.spec, WallTime(1'700'000'000'000'000us)});
      if (function.revisions.size() > 10) function.revisions.erase(function.revisions.begin());
      note(view, "created", number, "revision " + revision_name(request.name, number) + " created");
      verify(view, number, request.verify);
    }
    result.function = function;
    result.revision = function.revisions.back().number;
    co_return result;
  }

  io::Task<void> remove(FunctionName name) override {
    if (functions.erase(name) == 0) co_return absent(name);
    co_return Status{};
  }

  io::Task<void> set_scale(FunctionName name, std::optional<std::uint32_t> scale) override {
    const auto found = functions.find(name);
    if (found == functions.end()) co_return absent(name);
    found->second.function.manual_scale = scale;
    found->second.wanted = scale.value_or(0);
    co_return Status{};
  }

  Result<roles::FunctionView> describe(const FunctionName& name) override {
    const auto found = functions.find(name);
    if (found == functions.end()) return absent(name);
    return found->second;
  }


  std::vector<FunctionName> names() override {
    std::vector<FunctionName> all;
    for (const auto& [name, view] : functions) all.push_back(name);
    return all;
  }

  io::Task<std::vector<roles::FunctionEvent>> events(FunctionName name, std::uint64_t after, Duration wait) override {
    event_waits.emplace_back(after, wait);
    const auto found = functions.find(name);
    if (found == functions.end()) co_return absent(name);
    std::vector<roles::FunctionEvent> newer;
    for (const auto& event : found->second.events) {
      if (event.sequence > after) newer.push_back(event);
    }
    co_return newer;
  }

  io::Task<std::vector<LogLine>> logs(FunctionName name, std::optional<SandboxId> only,
                                      std::uint32_t lines_max) override {
    if (!functions.contains(name)) co_return absent(name);
    std::vector<LogLine> lines;
    for (const auto& line : log_lines) {
      if (!only || line.sandbox == *only) lines.push_back(line);
    }
    if (lines.size() > lines_max) lines.erase(lines.begin(), lines.end() - lines_max);
    co_return lines;
  }

  std::vector<roles::NodeView> nodes() override {
    // A drained node loses one sandbox each time somebody looks.
    for (auto& node : node_list) {
      if (node.status != "draining") continue;
      if (node.sandboxes > 0) --node.sandboxes;
      if (node.sandboxes == 0) node.status = "drained";
    }
    return node_list;
  }
  Result<std::vector<NodeId>> prefetch(const std::string& image, const std::optional<NodeId>& node) override {
    std::vector<NodeId> asked;
    for (auto& one : node_list) {
      if (node && one.info.id != *node) continue;
      one.images.images.push_back(image);
      asked.push_back(one.info.id);
    }
    if (asked.empty()) return failure(ErrorCode::not_found, "no node is connected that could get the image {}", image);
    return asked;
  }

  io::Task<void> set_node_use(NodeId id, NodeUse use) override {
    for (auto& node : node_list) {
      if (node.info.id != id) continue;
      node.status = use == NodeUse::open ? "ready" : use == NodeUse::cordoned ? "cordoned" : "draining";
      co_return Status{};
    }
    co_return failure(ErrorCode::not_found, "node \"{}\" not found", id);
  }
  std::vector<roles::DataPlaneView> data_planes() override { return data_plane_list; }
  roles::ClusterView cluster() override {
    roles::ClusterView view;
    view.version = "1.2.3";
    view.leader = leader;
    view.autoscaler = "knative";
    view.functions = functions.size();
    return view;
  }
  ScalingProfile default_profile() override { return *scaling_profile(profile); }
  std::string metrics() override { return "dirigent_build_info 1\n"; }

 private:
  static tl::unexpected<Error> absent(const FunctionName& name) {
    return failure(ErrorCode::not_found, "function \"{}\" not found", name);
  }

  void note(roles::FunctionView& view, std::string kind, RevisionNumber revision, std::string text,
            std::optional<SandboxEnd> end = {}) {
    roles::FunctionEvent event;
    event.sequence = ++sequence;
    event.at = WallTime(std::chrono::microseconds(1'700'000'000'000'000 + static_cast<std::int64_t>(sequence) * 1000));
    event.kind = std::move(kind);
    event.revision = revision;
    event.text = std::move(text);
    event.end = std::move(end);
    view.events.push_back(std::move(event));
  }

  void verify(roles::FunctionView& view, RevisionNumber number, bool wanted) {
    const std::string name = revision_name(view.function.name, number);
    if (wanted && verification_end) {
      view.last_failure = verification_end;
      note(view, "verify-failed", number, name + " did not become ready", verification_end);
      return;
    }
    if (wanted) note(view, "ready", number, "test instance ready after 2 probes");
    view.function.serving = number;
    view.invocable = true;
    note(view, "traffic", number, "traffic 100% -> " + name);
  }
};

}  // namespace dirigent::fakes
