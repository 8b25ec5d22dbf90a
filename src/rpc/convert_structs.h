// SPDX-License-Identifier: MIT
//
// The structs that messages are made of, to and from schemas/cluster.capnp, and what reading and writing them needs: the
// messages themselves are in convert.h.
#pragma once

#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster.capnp.h"
#include "dirigent/base/assert.h"
#include "dirigent/base/result.h"
#include "dirigent/model/messages.h"

namespace dirigent::rpc {

inline constexpr std::size_t kIdBytesMax = 256;

// Collects the first fault of what is being read; after it, values are read on but nobody will see them.
class Faults {
 public:
  void add(std::string_view field, std::string_view what) {
    if (!error_) error_ = Error{ErrorCode::corrupt, fmt::format("{} {}", field, what)};
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  Duration duration(std::int64_t ns, std::string_view field) {
    if (ns < 0) add(field, fmt::format("is {}, it must not be negative", ns));
    return Duration(ns);
  }
  std::int64_t amount(std::int64_t value, std::string_view field) {
    if (value < 0) add(field, fmt::format("is {}, it must not be negative", value));
    return value;
  }
  double finite(double value, std::string_view field) {
    if (!std::isfinite(value)) add(field, fmt::format("is {}, it must be a finite number", value));
    return value;
  }
  std::string id(capnp::Text::Reader text, std::string_view field) {
    if (text.size() == 0 || text.size() > kIdBytesMax) add(field, fmt::format("has {} bytes, it must have 1 to {}", text.size(), kIdBytesMax));
    return std::string(text.begin(), text.end());
  }
  template <class Model, class Wire, std::size_t N>
  Model word(const std::array<Model, N>& words, Wire value, std::string_view field) {
    const auto ordinal = static_cast<std::size_t>(value);
    if (ordinal < N) return words[ordinal];
    add(field, fmt::format("is {}, the largest known value is {} (is the peer newer?)", ordinal, N - 1));
    return words[0];
  }

 private:
  std::optional<Error> error_;
};

inline capnp::Text::Reader text(const std::string& value) { return capnp::Text::Reader(value.c_str(), value.size()); }
inline std::string text(capnp::Text::Reader value) { return std::string(value.begin(), value.end()); }

// One list per enumeration, in the order of the schema's enumerants, used both ways.
inline constexpr std::array kSandboxStateWords{SandboxState::placed,   SandboxState::starting, SandboxState::ready,
                                        SandboxState::draining, SandboxState::stopping, SandboxState::gone};
inline constexpr std::array kEndCauseWords{EndCause::none,          EndCause::requested, EndCause::start_failed,  EndCause::start_timeout, EndCause::exited,
                                    EndCause::out_of_memory, EndCause::node_lost, EndCause::image_missing, EndCause::no_capacity};
inline constexpr std::array kHttpProtocolWords{HttpProtocol::http1, HttpProtocol::h2c};
inline constexpr std::array kScalingMetricWords{ScalingMetric::concurrency, ScalingMetric::rps};
inline constexpr std::array kAggregationWords{Aggregation::linear, Aggregation::weighted_exponential};
inline constexpr std::array kReactionWords{Reaction::from_zero, Reaction::every_queue};
inline constexpr std::array kReasonWords{
    Reason::none,         Reason::bad_request,   Reason::not_found,       Reason::tag_not_found,
    Reason::unauthorized, Reason::forbidden,     Reason::rate_limited,    Reason::max_inflight,
    Reason::queue_full,   Reason::queue_timeout, Reason::no_capacity,     Reason::no_node,
    Reason::image_pull,   Reason::start_timeout, Reason::start_failed,    Reason::probe_failed,
    Reason::paused,       Reason::draining,      Reason::store_unavailable, Reason::body_too_large,
    Reason::request_timeout, Reason::response_start_timeout, Reason::idle_timeout, Reason::max_duration,
    Reason::sandbox_lost, Reason::sandbox_reset, Reason::bad_response,    Reason::client_gone,
    Reason::internal, Reason::overloaded};
// Every list is as long as its schema enumeration; the model's side is checked by the tests' round trips.
static_assert(kReasonWords.size() == static_cast<std::size_t>(schema::Reason::OVERLOADED) + 1);
static_assert(kEndCauseWords.size() == static_cast<std::size_t>(schema::EndCause::NO_CAPACITY) + 1);
static_assert(kSandboxStateWords.size() == static_cast<std::size_t>(schema::SandboxState::GONE) + 1);
static_assert(kSandboxStateWords.size() == kSandboxStates);

template <class Wire, class Model, std::size_t N>
Wire ordinal(const std::array<Model, N>& words, Model value) {
  for (std::size_t i = 0; i < N; ++i) {
    if (words[i] == value) return static_cast<Wire>(i);
  }
  ASSERT(false, "a value of the model has no word in the schema: {}", static_cast<int>(value));
}

void write(schema::Resources::Builder to, const Resources& from);
Resources read(Faults& faults, schema::Resources::Reader from);
void write(schema::NodeInfo::Builder to, const NodeInfo& from);
NodeInfo read(Faults& faults, schema::NodeInfo::Reader from);
void write(schema::NodeUsage::Builder to, const NodeUsage& from);
NodeUsage read(Faults& faults, schema::NodeUsage::Reader from);
void write(schema::SandboxAddress::Builder to, const SandboxAddress& from);
SandboxAddress read(schema::SandboxAddress::Reader from);
void write(schema::StartPhases::Builder to, const StartPhases& from);
StartPhases read(Faults& faults, schema::StartPhases::Reader from);
void write(schema::SandboxEnd::Builder to, const SandboxEnd& from);
SandboxEnd read(Faults& faults, schema::SandboxEnd::Reader from);
void write(schema::SandboxStatus::Builder to, const SandboxStatus& from);
SandboxStatus read(Faults& faults, schema::SandboxStatus::Reader from);
void write(schema::RequestLimits::Builder to, const RequestLimits& from);
RequestLimits read(Faults& faults, schema::RequestLimits::Reader from);
void write(schema::ScalingSettings::Builder to, const ScalingSettings& from);
ScalingSettings read(Faults& faults, schema::ScalingSettings::Reader from);
void write(schema::RevisionSpec::Builder to, const RevisionSpec& from);
RevisionSpec read(Faults& faults, schema::RevisionSpec::Reader from);
void write(schema::RoutedSandbox::Builder to, const RoutedSandbox& from);
RoutedSandbox read(Faults& faults, schema::RoutedSandbox::Reader from);
void write(schema::FunctionRoute::Builder to, const FunctionRoute& from);
FunctionRoute read(Faults& faults, schema::FunctionRoute::Reader from);
void write(schema::FunctionLoad::Builder to, const FunctionLoad& from);
FunctionLoad read(Faults& faults, schema::FunctionLoad::Reader from);

template <class ListBuilder, class Values>
void write_list(ListBuilder to, const Values& values) {
  unsigned at = 0;
  for (const auto& value : values) write(to[at++], value);
}
inline unsigned count(std::size_t size) { return static_cast<unsigned>(size); }

using Pairs = std::map<std::string, std::string>;
void write_pairs(capnp::List<schema::Pair>::Builder to, const Pairs& pairs);
Pairs read_pairs(Faults& faults, capnp::List<schema::Pair>::Reader from, std::string_view field);
void write_texts(capnp::List<capnp::Text>::Builder to, const std::vector<std::string>& texts);
std::vector<std::string> read_texts(capnp::List<capnp::Text>::Reader from);

}  // namespace dirigent::rpc
