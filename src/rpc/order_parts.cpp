// SPDX-License-Identifier: MIT
//
// How large a message is on the wire, and route updates cut into parts that fit and joined again.
// The constants are the sizes of the structs' fixed parts and pointers, rounded up.
#include <iterator>
#include <utility>

#include "rpc/convert.h"
#include "rpc/convert_structs.h"

namespace dirigent::rpc {

namespace {

constexpr std::size_t kPartBytes = std::size_t{1} << 20;

constexpr std::size_t kTextBytes = 8;  // terminator and padding of a text
std::size_t weight(const std::string& text) { return text.size() + kTextBytes; }
std::size_t weight(const SandboxAddress& address) { return 40 + weight(address.direct) + weight(address.published) + weight(address.host_id); }
std::size_t weight(const SandboxStatus& status) {
  return 240 + weight(status.function.value) + weight(status.address) + weight(status.end.detail) + weight(status.end.last_output) + weight(status.image_digest);
}
std::size_t weight(const Pairs& pairs) {
  std::size_t sum = 16;
  for (const auto& [name, value] : pairs) sum += 16 + weight(name) + weight(value);
  return sum;
}
std::size_t weight(const std::vector<std::string>& texts) {
  std::size_t sum = 16;
  for (const auto& one : texts) sum += 8 + weight(one);
  return sum;
}
std::size_t weight(const RevisionSpec& spec) {
  return 480 + weight(spec.image) + weight(spec.arguments) + weight(spec.environment) + weight(spec.working_directory) + weight(spec.ready_path) +
         weight(spec.labels) + weight(spec.constraints) + weight(spec.runtime) + weight(spec.user) + weight(spec.secrets);
}
std::size_t weight(const FunctionRoute& route) {
  std::size_t sum = 160 + weight(route.function.value) + weight(route.unavailable_detail);
  for (const auto& sandbox : route.sandboxes) sum += 104 + weight(sandbox.node.value) + weight(sandbox.address);
  return sum;
}
std::size_t weight(const RouteUpdate& update) {
  std::size_t sum = 48;
  for (const auto& function : update.functions) sum += weight(function);
  return sum;
}

RouteUpdate without_functions(const RouteUpdate& update) {
  RouteUpdate part;
  part.term = update.term;
  part.number = update.number;
  part.complete = update.complete;
  part.provisional = update.provisional;
  part.confirm = update.confirm;
  return part;
}

}  // namespace

std::size_t weight(const WorkerHello& hello) {
  std::size_t sum = 200 + weight(hello.node.labels);
  for (const auto& status : hello.sandboxes) sum += weight(status);
  return sum;
}
std::size_t weight(const WorkerMessage& message) {
  if (const auto* changed = std::get_if<SandboxChanged>(&message)) return 16 + weight(changed->status);
  if (const auto* images = std::get_if<NodeImages>(&message)) return 48 + weight(images->images) + weight(images->failed);
  return 64;
}
std::size_t weight(const WorkerOrder& order) {
  if (const auto* start = std::get_if<StartSandbox>(&order)) return 64 + weight(start->function.value) + weight(start->spec) + weight(start->image_digest);
  if (const auto* prefetch = std::get_if<PrefetchImage>(&order)) return 48 + weight(prefetch->image);
  return 40;
}
std::size_t weight(const DataPlaneMessage& message) {
  if (const auto* load = std::get_if<FunctionLoad>(&message)) return 96 + weight(load->function.value) + 8 * load->occupied.size();
  if (const auto* suspected = std::get_if<SandboxSuspected>(&message)) return 40 + weight(suspected->detail);
  return 40;
}
std::size_t weight(const OrderPart& part) { return 16 + weight(std::get<RouteUpdate>(part.order)); }

std::vector<OrderPart> split(DataPlaneOrder order) {
  auto& update = std::get<RouteUpdate>(order);
  std::vector<OrderPart> parts;
  RouteUpdate part = without_functions(update);
  std::size_t bytes = 0;
  for (auto& function : update.functions) {
    const std::size_t more = weight(function);
    if (bytes + more > kPartBytes && !part.functions.empty()) {
      parts.push_back(OrderPart{std::move(part), true});
      part = without_functions(update);
      bytes = 0;
    }
    part.functions.push_back(std::move(function));
    bytes += more;
  }
  parts.push_back(OrderPart{std::move(part), false});
  return parts;
}

Result<std::vector<DataPlaneOrder>> OrderJoiner::join(std::vector<OrderPart> parts) {
  std::vector<DataPlaneOrder> orders;
  orders.reserve(parts.size());
  for (auto& part : parts) {
    auto& update = std::get<RouteUpdate>(part.order);
    if (pending_bytes_ == 0 && !part.continues) {
      orders.push_back(std::move(part.order));
      continue;
    }
    pending_bytes_ += weight(update);
    if (pending_bytes_ > kJoinedBytesMax) {
      return failure(ErrorCode::exhausted, "an update of routes has more than {} bytes", kJoinedBytesMax);
    }
    auto functions = std::move(pending_.functions);
    pending_ = without_functions(update);
    pending_.functions = std::move(functions);
    std::move(update.functions.begin(), update.functions.end(), std::back_inserter(pending_.functions));
    if (part.continues) continue;
    orders.emplace_back(std::exchange(pending_, RouteUpdate{}));
    pending_bytes_ = 0;
  }
  return orders;
}

}  // namespace dirigent::rpc
