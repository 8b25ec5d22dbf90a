// SPDX-License-Identifier: MIT
#include "replicated_catalog.h"

#include "dirigent/base/text.h"
#include "function_json.h"

namespace dirigent::roles {

namespace {

// The first byte of a command says what it is.
constexpr char kPut = 'P';     // NAME, NUL, the function as JSON
constexpr char kDrop = 'D';    // NAME
constexpr char kNode = 'N';    // NODE, NUL, what it is used for
constexpr char kRoster = 'R';  // lines: "+w NODE", "-d DATA-PLANE"

tl::unexpected<Error> unreadable(std::string_view what) {
  return failure(ErrorCode::corrupt, "cannot read {} of the group's log (is this version older than the one that wrote it?)", what);
}

// Length-prefixed, so that a snapshot is cut the same way as it was put together.
void put(std::string& to, std::string_view bytes) {
  for (int shift = 0; shift < 64; shift += 8) to.push_back(static_cast<char>(bytes.size() >> shift & 0xff));
  to += bytes;
}

std::optional<std::string_view> take(std::string_view& from) {
  if (from.size() < 8) return std::nullopt;
  std::uint64_t size = 0;
  for (int i = 0; i < 8; ++i) size |= std::uint64_t{static_cast<unsigned char>(from[static_cast<std::size_t>(i)])} << (8 * i);
  from.remove_prefix(8);
  if (size > from.size()) return std::nullopt;
  const std::string_view bytes = from.substr(0, static_cast<std::size_t>(size));
  from.remove_prefix(bytes.size());
  return bytes;
}

}  // namespace

std::string ReplicatedCatalog::encode(const core::CatalogCommand& command) {
  const std::string& name = core::function_of(command).value;
  if (const auto* put_function = std::get_if<core::PutFunction>(&command)) {
    std::string bytes(1, kPut);
    bytes += name;
    bytes.push_back('\0');
    return bytes + encode_function(put_function->function);
  }
  return std::string(1, kDrop) + name;
}

std::string ReplicatedCatalog::encode(const core::SetNodeUse& command) {
  std::string bytes(1, kNode);
  bytes += command.node.value;
  bytes.push_back('\0');
  return bytes += to_string(command.use);
}

std::string ReplicatedCatalog::encode_roster(const Roster& added, const Roster& removed) {
  std::string bytes(1, kRoster);
  for (const auto& who : added) bytes += "+" + who + "\n";
  for (const auto& who : removed) bytes += "-" + who + "\n";
  return bytes;
}

Status ReplicatedCatalog::apply(std::string_view command) {
  if (command.empty()) return unreadable("an empty command");
  const std::string_view rest = command.substr(1);
  switch (command.front()) {
    case kPut: {
      const std::size_t end = rest.find('\0');
      if (end == std::string_view::npos) return unreadable("a function");
      std::string text(rest.substr(end + 1));
      auto function = decode_function(text);
      if (!function) return failure(function.error().within(fmt::format("function {} in the group's log", rest.substr(0, end))));
      kept_.insert_or_assign(std::string(rest.substr(0, end)), Kept{std::move(*function), std::move(text)});
      return {};
    }
    case kDrop: kept_.erase(std::string(rest)); return {};
    case kNode: {
      const std::size_t end = rest.find('\0');
      if (end == std::string_view::npos) return unreadable("a node");
      auto use = parse_node_use(rest.substr(end + 1));
      if (!use) return failure(use.error().within(fmt::format("node {} in the group's log", rest.substr(0, end))));
      NodeId node{std::string(rest.substr(0, end))};
      if (*use == NodeUse::open) {
        node_uses_.erase(node);
      } else {
        node_uses_.insert_or_assign(std::move(node), *use);
      }
      return {};
    }
    case kRoster:
      for (const auto line : split(rest, '\n')) {
        if (line.size() < 4) continue;
        if (line.front() == '+') roster_.emplace(line.substr(1));
        if (line.front() == '-') roster_.erase(std::string(line.substr(1)));
      }
      return {};
    default: return unreadable("a command");
  }
}

std::string ReplicatedCatalog::snapshot() const {
  std::string bytes;
  put(bytes, encode_roster(roster_, {}));
  for (const auto& node : node_uses()) {
    put(bytes, "");
    put(bytes, encode(node));
  }
  for (const auto& [name, kept] : kept_) {
    put(bytes, name);
    put(bytes, kept.text);
  }
  return bytes;
}

Status ReplicatedCatalog::restore(std::string_view snapshot) {
  ReplicatedCatalog fresh;
  const auto roster = take(snapshot);
  if (!roster || !fresh.apply(*roster)) return unreadable("a snapshot");
  while (!snapshot.empty()) {
    const auto name = take(snapshot);
    const auto text = take(snapshot);
    if (!name || !text) return unreadable("a snapshot");
    if (name->empty()) {  // a command that is no function's
      if (auto applied = fresh.apply(*text); !applied) return applied;
      continue;
    }
    auto function = decode_function(std::string(*text));
    if (!function) return failure(function.error().within(fmt::format("function {} in a snapshot of the group", *name)));
    fresh.kept_.emplace(std::string(*name), Kept{std::move(*function), std::string(*text)});
  }
  *this = std::move(fresh);
  return {};
}

std::vector<core::SetNodeUse> ReplicatedCatalog::node_uses() const {
  std::vector<core::SetNodeUse> nodes;
  for (const auto& [node, use] : node_uses_) nodes.push_back({node, use});
  return nodes;
}

std::vector<Function> ReplicatedCatalog::functions() const {
  std::vector<Function> functions;
  functions.reserve(kept_.size());
  for (const auto& [name, kept] : kept_) functions.push_back(kept.function);
  return functions;
}

}  // namespace dirigent::roles
