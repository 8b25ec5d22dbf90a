// SPDX-License-Identifier: MIT
#include <capnp/message.h>

#include <limits>

#include "catch.h"
#include "fakes/full_spec.h"
#include "rpc/convert.h"

namespace dirigent::rpc {
namespace {

// Every field differs from its default and from its neighbours, so that an exchanged pair is seen.
StartPhases full_phases() {
  StartPhases phases;
  phases.schedule = 1ns;
  phases.create = 2us;
  phases.network = 3ms;
  phases.start = 4s;
  phases.probe = 5min;
  phases.probe_tries = 6;
  return phases;
}
SandboxAddress full_address() { return {"198.18.0.6:8080", "10.0.0.7:30005", "host-x"}; }
SandboxStatus full_status() {
  SandboxStatus status;
  status.id.value = 0xfedcba9876543210;
  status.function.value = "hello.team";
  status.revision.value = 12;
  status.term.value = 13;
  status.state = SandboxState::gone;
  status.address = full_address();
  status.phases = full_phases();
  status.age = 14h;
  status.image_digest = "sha256:2";
  status.end = SandboxEnd{EndCause::out_of_memory, -15, 9, "killed", std::string("last\0line\xff", 10)};
  return status;
}
WorkerHello full_hello() {
  WorkerHello hello;
  hello.protocol = 42;
  hello.node.id.value = "node-1";
  hello.node.host = "10.0.0.1";
  hello.node.host_id = "boot-1";
  hello.node.capacity = {Millicpu{8000}, 16_GiB};
  hello.node.sandboxes_max = 500;
  hello.node.starts_max = 30;
  hello.node.runtime = "process";
  hello.node.version = "0.1.0";
  hello.node.labels = {{"zone", "a"}, {"disk", "fast"}};
  hello.sandboxes = {full_status(), SandboxStatus{SandboxId{2}, FunctionName{"f"}, {}, {}, SandboxState::ready, {}, {}, {}, {}, {}}};
  return hello;
}
FunctionRoute full_route() {
  FunctionRoute route;
  route.function.value = "hello";
  route.revision.value = 3;
  route.version.value = 1ull << 40;
  route.limits = fakes::every_field_set().limits;
  route.protocol = HttpProtocol::h2c;
  route.deleted = true;
  route.unavailable = Reason::internal;
  route.unavailable_detail = "why";
  route.sandboxes = {RoutedSandbox{SandboxId{9}, NodeId{"node-1"}, full_address(), 4, full_phases()}};
  return route;
}

void require_equal(const RoutedSandbox& a, const RoutedSandbox& b) {
  REQUIRE(a.id == b.id);
  REQUIRE(a.node == b.node);
  REQUIRE(a.address == b.address);
  REQUIRE(a.slots == b.slots);
  REQUIRE(a.phases == b.phases);
}
void require_equal(const FunctionRoute& a, const FunctionRoute& b) {
  REQUIRE(a.function == b.function);
  REQUIRE(a.revision == b.revision);
  REQUIRE(a.version == b.version);
  REQUIRE(a.limits == b.limits);
  REQUIRE(a.protocol == b.protocol);
  REQUIRE(a.deleted == b.deleted);
  REQUIRE(a.unavailable == b.unavailable);
  REQUIRE(a.unavailable_detail == b.unavailable_detail);
  REQUIRE(a.sandboxes.size() == b.sandboxes.size());
  for (std::size_t i = 0; i < a.sandboxes.size(); ++i) require_equal(a.sandboxes[i], b.sandboxes[i]);
}

// Through the bytes of one message and back.
template <class Schema, class Model>
auto round_trip(const Model& model) {
  capnp::MallocMessageBuilder message;
  write(message.initRoot<Schema>(), model);
  return read(message.getRoot<Schema>().asReader());
}
template <class Schema, class Message>
auto round_trip_list(const std::vector<Message>& messages) {
  capnp::MallocMessageBuilder message;
  auto list = message.initRoot<capnp::AnyPointer>().initAs<capnp::List<Schema>>(static_cast<unsigned>(messages.size()));
  for (std::size_t i = 0; i < messages.size(); ++i) write(list[static_cast<unsigned>(i)], messages[i]);
  return read(list.asReader());
}

TEST_CASE("convert: a worker's hello arrives with every field") {
  const auto sent = full_hello();
  const auto got = round_trip<schema::WorkerHello>(sent);
  REQUIRE(got);
  CHECK(got->protocol == 42);
  CHECK(got->node == sent.node);
  CHECK(got->sandboxes == sent.sandboxes);
}

TEST_CASE("convert: a data plane's hello arrives with every field") {
  const DataPlaneHello sent{2, DataPlaneId{"data-1"}, "10.0.0.1:8080", "boot-1", "0.1.0", "10.0.0.1:9093", {{SandboxId{4}, 1, 2}, {SandboxId{5}, kUnlimitedSlots, kUnlimitedSlots}}};
  const auto got = round_trip<schema::DataPlaneHello>(sent);
  REQUIRE(got);
  CHECK(got->protocol == 2);
  CHECK(got->id == sent.id);
  CHECK(got->invoke_address == sent.invoke_address);
  CHECK(got->host_id == sent.host_id);
  CHECK(got->version == sent.version);
  CHECK(got->admin_address == sent.admin_address);
  REQUIRE(got->shares.size() == 2);
  CHECK(got->shares[0].sandbox.value == 4);
  CHECK(got->shares[0].granted == 1);
  CHECK(got->shares[0].held == 2);
  CHECK(got->shares[1].held == kUnlimitedSlots);
}

TEST_CASE("convert: a worker's messages arrive with every field") {
  const NodeUsage usage{{Millicpu{1}, Bytes{2}}, 3};
  const NodeImages images{{"tar:/a", "host/b:1"}, {{"c:2", "no such host"}}};
  const auto got = round_trip_list<schema::WorkerMessage>(std::vector<WorkerMessage>{NodeHeartbeat{usage}, SandboxChanged{full_status()}, WorkerLeaving{}, images});
  REQUIRE(got);
  REQUIRE(got->size() == 4);
  CHECK(std::get<NodeHeartbeat>((*got)[0]).usage == usage);
  CHECK(std::get<SandboxChanged>((*got)[1]).status == full_status());
  CHECK(std::holds_alternative<WorkerLeaving>((*got)[2]));
  CHECK(std::get<NodeImages>((*got)[3]) == images);
}

TEST_CASE("convert: a worker's orders arrive with every field") {
  const StartSandbox start{Term{1}, SandboxId{2}, FunctionName{"f"}, RevisionNumber{3}, fakes::every_field_set(), "sha256:1"};
  const auto got = round_trip_list<schema::WorkerOrder>(std::vector<WorkerOrder>{start, StopSandbox{Term{4}, SandboxId{5}}, PrefetchImage{Term{6}, "host/b:1"}});
  REQUIRE(got);
  REQUIRE(got->size() == 3);
  const auto& started = std::get<StartSandbox>((*got)[0]);
  CHECK(started.term.value == 1);
  CHECK(started.id.value == 2);
  CHECK(started.function.value == "f");
  CHECK(started.revision.value == 3);
  CHECK(started.spec == fakes::every_field_set());
  CHECK(started.image_digest == "sha256:1");
  CHECK(std::get<PrefetchImage>((*got)[2]).term.value == 6);
  CHECK(std::get<PrefetchImage>((*got)[2]).image == "host/b:1");
  CHECK(std::get<StopSandbox>((*got)[1]).term.value == 4);
  CHECK(std::get<StopSandbox>((*got)[1]).id.value == 5);
}

TEST_CASE("convert: a target that is not set stays not set") {
  StartSandbox start{Term{1}, SandboxId{2}, FunctionName{"f"}, RevisionNumber{3}, fakes::every_field_set(), ""};
  start.spec.scaling.target.reset();
  const auto got = round_trip_list<schema::WorkerOrder>(std::vector<WorkerOrder>{start});
  REQUIRE(got);
  CHECK(!std::get<StartSandbox>(got->front()).spec.scaling.target);
}

TEST_CASE("convert: a data plane's messages arrive with every field") {
  const FunctionLoad load{FunctionName{"f"}, 1, 2, 3, 4.5, 5, 6, 7ns, 8s, {SandboxId{12}, SandboxId{13}}};
  const auto got = round_trip_list<schema::DataPlaneMessage>(std::vector<DataPlaneMessage>{
      load, SlotsReleased{SandboxId{9}, 2, 77}, SandboxSuspected{SandboxId{10}, "refused"}, DataPlaneHeartbeat{11}, DataPlaneLeaving{},
      RoutesApplied{78}});
  REQUIRE(got);
  REQUIRE(got->size() == 6);
  const auto& arrived = std::get<FunctionLoad>((*got)[0]);
  CHECK(arrived.function == load.function);
  CHECK(arrived.shard == 1);
  CHECK(arrived.waiting == 2);
  CHECK(arrived.in_flight == 3);
  CHECK(arrived.average_concurrency == 4.5);
  CHECK(arrived.arrivals == 5);
  CHECK(arrived.completions == 6);
  CHECK(arrived.busy == 7ns);
  CHECK(arrived.interval == 8s);
  CHECK(arrived.occupied == load.occupied);
  CHECK(std::get<SlotsReleased>((*got)[1]).sandbox.value == 9);
  CHECK(std::get<SlotsReleased>((*got)[1]).slots == 2);
  CHECK(std::get<SlotsReleased>((*got)[1]).update == 77);
  CHECK(std::get<SandboxSuspected>((*got)[2]).id.value == 10);
  CHECK(std::get<SandboxSuspected>((*got)[2]).detail == "refused");
  CHECK(std::get<DataPlaneHeartbeat>((*got)[3]).requests_in_flight == 11);
  CHECK(std::holds_alternative<DataPlaneLeaving>((*got)[4]));
  CHECK(std::get<RoutesApplied>((*got)[5]).update == 78);
}

TEST_CASE("convert: routes arrive with every field") {
  const auto got = round_trip_list<schema::DataPlaneOrder>(std::vector<OrderPart>{{RouteUpdate{Term{5}, 6, true, true, true, {full_route(), full_route()}}, true}});
  REQUIRE(got);
  REQUIRE(got->size() == 1);
  CHECK(got->front().continues);
  const auto& update = std::get<RouteUpdate>(got->front().order);
  CHECK(update.term.value == 5);
  CHECK(update.number == 6);
  CHECK(update.confirm);
  CHECK(update.complete);
  CHECK(update.provisional);
  REQUIRE(update.functions.size() == 2);
  require_equal(update.functions[1], full_route());
}

TEST_CASE("convert: every state, cause and reason has a word of its own") {
  for (std::size_t i = 0; i < kSandboxStates; ++i) {
    SandboxStatus status = full_status();
    status.state = static_cast<SandboxState>(i);
    const auto got = round_trip_list<schema::WorkerMessage>(std::vector<WorkerMessage>{SandboxChanged{status}});
    CHECK(std::get<SandboxChanged>(got->front()).status == status);
  }
  for (int i = 0; i <= static_cast<int>(EndCause::no_capacity); ++i) {
    SandboxStatus status = full_status();
    status.end.cause = static_cast<EndCause>(i);
    const auto got = round_trip_list<schema::WorkerMessage>(std::vector<WorkerMessage>{SandboxChanged{status}});
    CHECK(std::get<SandboxChanged>(got->front()).status == status);
  }
  for (const auto& reason : all_reasons()) {
    FunctionRoute route = full_route();
    route.unavailable = reason.reason;
    const auto got = round_trip_list<schema::DataPlaneOrder>(std::vector<OrderPart>{{RouteUpdate{{}, 0, false, false, false, {route}}, false}});
    CHECK(std::get<RouteUpdate>(got->front().order).functions.front().unavailable == reason.reason);
  }
}

TEST_CASE("convert: logs and queries arrive with every field") {
  const auto query = round_trip<schema::LogQuery>(LogQuery{SandboxId{3}, 4});
  REQUIRE(query);
  CHECK(query->sandbox.value == 3);
  CHECK(query->lines_max == 4);
  const auto answer = round_trip<schema::LogAnswer>(LogAnswer{{{-1, true, "a"}, {2, false, std::string("\0\xff", 2)}}});
  REQUIRE(answer);
  REQUIRE(answer->lines.size() == 2);
  CHECK(answer->lines[0].time_us == -1);
  CHECK(answer->lines[0].is_error_stream);
  CHECK(answer->lines[1].text == std::string("\0\xff", 2));
}

template <class Spoil>
std::string refusal_of_status(Spoil spoil) {
  capnp::MallocMessageBuilder message;
  auto list = message.initRoot<capnp::AnyPointer>().initAs<capnp::List<schema::WorkerMessage>>(1);
  write(list[0], WorkerMessage{SandboxChanged{full_status()}});
  spoil(list[0].getSandboxChanged());
  const auto got = read(list.asReader());
  if (got) return "accepted";
  CHECK(got.error().code == ErrorCode::corrupt);
  return got.error().message;
}

TEST_CASE("convert: a value out of its range is refused with the field's name") {
  CHECK(refusal_of_status([](auto) {}) == "accepted");
  CHECK(refusal_of_status([](auto status) { status.setState(static_cast<schema::SandboxState>(99)); }).starts_with("SandboxStatus.state is 99"));
  CHECK(refusal_of_status([](auto status) { status.setAgeNs(-1); }) == "SandboxStatus.ageNs is -1, it must not be negative");
  CHECK(refusal_of_status([](auto status) { status.setFunction(""); }).starts_with("SandboxStatus.function has 0 bytes"));
  CHECK(refusal_of_status([](auto status) { status.setFunction(std::string(257, 'x').c_str()); }).starts_with("SandboxStatus.function has 257 bytes"));
  CHECK(refusal_of_status([](auto status) { status.getPhases().setProbeNs(std::numeric_limits<std::int64_t>::min()); }).starts_with("StartPhases.probeNs is -9"));
  CHECK(refusal_of_status([](auto status) { status.getEnd().setCause(static_cast<schema::EndCause>(9)); }).starts_with("SandboxEnd.cause is 9"));
  CHECK(refusal_of_status([](auto status) { status.getEnd().setSignal(-1); }).starts_with("SandboxEnd.signal is -1"));
}

TEST_CASE("convert: loads and settings that are not numbers are refused") {
  capnp::MallocMessageBuilder message;
  auto list = message.initRoot<capnp::AnyPointer>().initAs<capnp::List<schema::DataPlaneMessage>>(1);
  write(list[0], DataPlaneMessage{FunctionLoad{FunctionName{"f"}, 1, 2, 3, std::numeric_limits<double>::quiet_NaN(), 5, 6, 7ns, 8s, {}}});
  const auto load = read(list.asReader());
  REQUIRE(!load);
  CHECK(load.error().message.starts_with("FunctionLoad.averageConcurrency is"));

  StartSandbox start{Term{1}, SandboxId{2}, FunctionName{"f"}, RevisionNumber{3}, fakes::every_field_set(), ""};
  start.spec.scaling.scale_up_rate_max = std::numeric_limits<double>::infinity();
  const auto order = round_trip_list<schema::WorkerOrder>(std::vector<WorkerOrder>{start});
  REQUIRE(!order);
  CHECK(order.error().message.starts_with("ScalingSettings.scaleUpRateMax is inf"));
}

TEST_CASE("convert: a name that stands twice in a list of labels is refused") {
  capnp::MallocMessageBuilder message;
  auto hello = message.initRoot<schema::WorkerHello>();
  write(hello, full_hello());
  hello.getNode().getLabels()[1].setName("disk");
  const auto got = read(hello.asReader());
  REQUIRE(!got);
  CHECK(got.error().message == "NodeInfo.labels has the name \"disk\" twice");
}

TEST_CASE("convert: union members of a newer peer are skipped and the rest is kept") {
  capnp::MallocMessageBuilder message;
  auto list = message.initRoot<capnp::AnyPointer>().initAs<capnp::List<schema::DataPlaneMessage>>(2);
  list[0].setLeaving();
  write(list[1], DataPlaneMessage{DataPlaneHeartbeat{1}});
  // The discriminant is the only 16-bit field of the struct, at its start.
  auto raw = capnp::toAny(list[0]).getDataSection();
  raw[0] = 77;
  const auto got = read(list.asReader());
  REQUIRE(got);
  REQUIRE(got->size() == 1);
  CHECK(std::holds_alternative<DataPlaneHeartbeat>(got->front()));
}

TEST_CASE("convert: a large update of routes is cut into parts and put together again") {
  RouteUpdate update{Term{3}, 4, true, false, true, {}};
  for (int i = 0; i < 20'000; ++i) {
    FunctionRoute route = full_route();
    route.function.value = fmt::format("function-{}", i);
    update.functions.push_back(route);
  }
  auto parts = split(update);
  CHECK(parts.size() > 3);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    CHECK(parts[i].continues == (i + 1 < parts.size()));
    CHECK(weight(parts[i]) < (std::size_t{2} << 20));
  }
  OrderJoiner joiner;
  std::vector<DataPlaneOrder> orders;
  for (auto& part : parts) {
    auto joined = joiner.join({std::move(part)});
    REQUIRE(joined);
    for (auto& order : *joined) orders.push_back(std::move(order));
  }
  REQUIRE(orders.size() == 1);
  const auto& whole = std::get<RouteUpdate>(orders.front());
  CHECK(whole.complete);
  CHECK(whole.term.value == 3);
  CHECK(whole.number == 4);
  CHECK(whole.confirm);
  REQUIRE(whole.functions.size() == update.functions.size());
  for (std::size_t i = 0; i < update.functions.size(); ++i) REQUIRE(whole.functions[i].function == update.functions[i].function);
}

TEST_CASE("convert: the weight of a message is near what it takes on the wire") {
  const WorkerOrder order = StartSandbox{Term{1}, SandboxId{2}, FunctionName{"f"}, RevisionNumber{3}, fakes::every_field_set(), ""};
  capnp::MallocMessageBuilder message;
  write(message.initRoot<schema::WorkerOrder>(), order);
  const auto real = message.sizeInWords() * sizeof(capnp::word);
  CHECK(weight(order) * 2 >= real);
  CHECK(weight(order) <= real * 2);
}

}  // namespace
}  // namespace dirigent::rpc
