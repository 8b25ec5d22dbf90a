// SPDX-License-Identifier: MIT
//
// What the control role shows, as JSON. docs/api.md describes every field. Times end in _us (since 1970-01-01 UTC),
// durations in _ms. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/roles/control_service.h"
#include "roles/control/json_writer.h"

namespace dirigent::roles {

// `invoke_address` is a data plane's host:port, "" when none is connected (then there is no "url").
std::string function_json(const FunctionView& view, std::string_view invoke_address);
// {"functions":[..]}, made function by function. A summary has what a table shows only: a fraction of the time and size.
class ListText {
 public:
  // `count`: about how many functions will be added.
  ListText(std::string invoke_address, bool is_summary, std::size_t count);
  void add(const FunctionView& view);
  // Once, at the end.
  std::string take();

 private:
  std::string invoke_address_;
  bool is_summary_;
  std::size_t count_;
  std::size_t added_ = 0;
  JsonWriter json_;
};
std::string deployed_json(const Deployed& deployed, std::string_view invoke_address);
std::string names_json(const std::vector<FunctionName>& names);
// {"name":..,"lines":[..]}
std::string explanation_json(const FunctionName& name, const std::vector<std::string>& lines);
std::string events_json(const std::vector<FunctionEvent>& events);
std::string logs_json(const std::vector<ControlService::LogLine>& lines);
std::string node_names_json(const std::vector<NodeId>& nodes);
std::string nodes_json(const std::vector<NodeView>& nodes);
std::string data_planes_json(const std::vector<DataPlaneView>& data_planes);
std::string cluster_json(const ClusterView& cluster);
// RFC 9457. `hint` is one line of help, may be empty.
std::string problem_json(int status, std::string_view code, std::string_view detail, std::string_view hint,
                         bool retriable);

}  // namespace dirigent::roles
