// SPDX-License-Identifier: MIT
//
// Messages: which member of a union, and what it carries. Their structs are in convert_structs.cpp.
#include "rpc/convert.h"

#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "rpc/convert_structs.h"
#include "rpc/kj_loop.h"

namespace dirigent::rpc {

namespace {

// --- one message of a stream; nullopt for what a newer peer says --------------------------------------------------

std::optional<WorkerMessage> read_one(Faults& faults, schema::WorkerMessage::Reader from) {
  switch (from.which()) {
    case schema::WorkerMessage::HEARTBEAT: return NodeHeartbeat{read(faults, from.getHeartbeat())};
    case schema::WorkerMessage::SANDBOX_CHANGED: return SandboxChanged{read(faults, from.getSandboxChanged())};
    case schema::WorkerMessage::LEAVING: return WorkerLeaving{};
    case schema::WorkerMessage::IMAGES:
      return NodeImages{read_texts(from.getImages().getImages()), read_pairs(faults, from.getImages().getFailed(), "NodeImages.failed")};
  }
  return std::nullopt;
}

std::optional<WorkerOrder> read_one(Faults& faults, schema::WorkerOrder::Reader from) {
  switch (from.which()) {
    case schema::WorkerOrder::START: {
      const auto start = from.getStart();
      return StartSandbox{Term{start.getTerm()}, SandboxId{start.getId()}, FunctionName{faults.id(start.getFunction(), "StartSandbox.function")},
                          RevisionNumber{start.getRevision()}, read(faults, start.getSpec()), text(start.getImageDigest())};
    }
    case schema::WorkerOrder::STOP: return StopSandbox{Term{from.getStop().getTerm()}, SandboxId{from.getStop().getId()}};
    case schema::WorkerOrder::PREFETCH: return PrefetchImage{Term{from.getPrefetch().getTerm()}, text(from.getPrefetch().getImage())};
  }
  return std::nullopt;
}

std::optional<DataPlaneMessage> read_one(Faults& faults, schema::DataPlaneMessage::Reader from) {
  switch (from.which()) {
    case schema::DataPlaneMessage::LOAD: return read(faults, from.getLoad());
    case schema::DataPlaneMessage::RELEASED: {
      const auto released = from.getReleased();
      return SlotsReleased{SandboxId{released.getId()}, released.getSlots(), released.getUpdate()};
    }
    case schema::DataPlaneMessage::SUSPECTED:
      return SandboxSuspected{SandboxId{from.getSuspected().getId()}, text(from.getSuspected().getDetail())};
    case schema::DataPlaneMessage::HEARTBEAT: return DataPlaneHeartbeat{from.getHeartbeat().getRequestsInFlight()};
    case schema::DataPlaneMessage::LEAVING: return DataPlaneLeaving{};
    case schema::DataPlaneMessage::APPLIED: return RoutesApplied{from.getApplied().getUpdate()};
  }
  return std::nullopt;
}

std::optional<OrderPart> read_one(Faults& faults, schema::DataPlaneOrder::Reader from) {
  switch (from.which()) {
    case schema::DataPlaneOrder::NOTHING: return std::nullopt;
    case schema::DataPlaneOrder::ROUTES: {
      const auto routes = from.getRoutes();
      RouteUpdate update;
      update.term.value = routes.getTerm();
      update.complete = routes.getComplete();
      update.provisional = routes.getProvisional();
      update.number = routes.getNumber();
      update.confirm = routes.getConfirm();
      const auto functions = routes.getFunctions();
      update.functions.reserve(functions.size());
      for (auto function : functions) update.functions.push_back(read(faults, function));
      return OrderPart{std::move(update), routes.getContinues()};
    }
  }
  return std::nullopt;
}

// Runs `body` with a place for faults. The RPC library throws for broken pointers and exceeded limits.
template <class T, class Body>
Result<T> checked(std::string_view what, Body body) {
  T value;
  Faults faults;
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { body(value, faults); })) {
    return failure(ErrorCode::corrupt, "{} is malformed: {}", what, words(*exception));
  }
  if (faults.error()) return failure(*faults.error());
  return value;
}

template <class Message, class List>
Result<std::vector<Message>> read_batch(std::string_view what, List from) {
  return checked<std::vector<Message>>(what, [&](std::vector<Message>& messages, Faults& faults) {
    messages.reserve(from.size());
    for (auto one : from) {
      if (auto message = read_one(faults, one)) messages.push_back(std::move(*message));
    }
  });
}

template <class... Lambdas>
struct Overloaded : Lambdas... {
  using Lambdas::operator()...;
};
template <class... Lambdas>
Overloaded(Lambdas...) -> Overloaded<Lambdas...>;

}  // namespace

// --- hellos -------------------------------------------------------------------------------------------------------

void write(schema::WorkerHello::Builder to, const WorkerHello& from) {
  to.setProtocol(from.protocol);
  write(to.initNode(), from.node);
  write_list(to.initSandboxes(count(from.sandboxes.size())), from.sandboxes);
}
Result<WorkerHello> read(schema::WorkerHello::Reader from) {
  return checked<WorkerHello>("the hello of a worker", [&](WorkerHello& to, Faults& faults) {
    to.protocol = from.getProtocol();
    to.node = read(faults, from.getNode());
    const auto sandboxes = from.getSandboxes();
    to.sandboxes.reserve(sandboxes.size());
    for (auto sandbox : sandboxes) to.sandboxes.push_back(read(faults, sandbox));
  });
}

void write(schema::DataPlaneHello::Builder to, const DataPlaneHello& from) {
  to.setProtocol(from.protocol);
  to.setId(text(from.id.value));
  to.setInvokeAddress(text(from.invoke_address));
  to.setHostId(text(from.host_id));
  to.setVersion(text(from.version));
  to.setAdminAddress(text(from.admin_address));
  auto shares = to.initShares(count(from.shares.size()));
  for (std::size_t i = 0; i < from.shares.size(); ++i) {
    auto share = shares[count(i)];
    share.setId(from.shares[i].sandbox.value);
    share.setGranted(from.shares[i].granted);
    share.setHeld(from.shares[i].held);
  }
}
Result<DataPlaneHello> read(schema::DataPlaneHello::Reader from) {
  return checked<DataPlaneHello>("the hello of a data plane", [&](DataPlaneHello& to, Faults& faults) {
    to.protocol = from.getProtocol();
    to.id.value = faults.id(from.getId(), "DataPlaneHello.id");
    to.invoke_address = text(from.getInvokeAddress());
    to.host_id = text(from.getHostId());
    to.version = text(from.getVersion());
    to.admin_address = text(from.getAdminAddress());
    const auto shares = from.getShares();
    to.shares.reserve(shares.size());
    for (auto share : shares) to.shares.push_back({SandboxId{share.getId()}, share.getGranted(), share.getHeld()});
  });
}

// --- streams ------------------------------------------------------------------------------------------------------

void write(schema::WorkerMessage::Builder to, const WorkerMessage& from) {
  std::visit(Overloaded{[&](const NodeHeartbeat& heartbeat) { write(to.initHeartbeat(), heartbeat.usage); },
                        [&](const SandboxChanged& changed) { write(to.initSandboxChanged(), changed.status); },
                        [&](const WorkerLeaving&) { to.setLeaving(); },
                        [&](const NodeImages& images) {
                          auto builder = to.initImages();
                          write_texts(builder.initImages(count(images.images.size())), images.images);
                          write_pairs(builder.initFailed(count(images.failed.size())), images.failed);
                        }},
             from);
}

void write(schema::WorkerOrder::Builder to, const WorkerOrder& from) {
  std::visit(Overloaded{[&](const StartSandbox& order) {
                          auto start = to.initStart();
                          start.setTerm(order.term.value);
                          start.setId(order.id.value);
                          start.setFunction(text(order.function.value));
                          start.setRevision(order.revision.value);
                          write(start.initSpec(), order.spec);
                          start.setImageDigest(text(order.image_digest));
                        },
                        [&](const StopSandbox& order) {
                          auto stop = to.initStop();
                          stop.setTerm(order.term.value);
                          stop.setId(order.id.value);
                        },
                        [&](const PrefetchImage& order) {
                          auto prefetch = to.initPrefetch();
                          prefetch.setTerm(order.term.value);
                          prefetch.setImage(text(order.image));
                        }},
             from);
}

void write(schema::DataPlaneMessage::Builder to, const DataPlaneMessage& from) {
  std::visit(Overloaded{[&](const FunctionLoad& load) { write(to.initLoad(), load); },
                        [&](const SlotsReleased& released) {
                          auto builder = to.initReleased();
                          builder.setId(released.sandbox.value);
                          builder.setSlots(released.slots);
                          builder.setUpdate(released.update);
                        },
                        [&](const SandboxSuspected& suspected) {
                          auto builder = to.initSuspected();
                          builder.setId(suspected.id.value);
                          builder.setDetail(text(suspected.detail));
                        },
                        [&](const DataPlaneHeartbeat& heartbeat) { to.initHeartbeat().setRequestsInFlight(heartbeat.requests_in_flight); },
                        [&](const DataPlaneLeaving&) { to.setLeaving(); },
                        [&](const RoutesApplied& applied) { to.initApplied().setUpdate(applied.update); }},
             from);
}

void write(schema::DataPlaneOrder::Builder to, const OrderPart& from) {
  const auto& update = std::get<RouteUpdate>(from.order);
  auto routes = to.initRoutes();
  routes.setTerm(update.term.value);
  routes.setComplete(update.complete);
  routes.setProvisional(update.provisional);
  routes.setNumber(update.number);
  routes.setConfirm(update.confirm);
  routes.setContinues(from.continues);
  write_list(routes.initFunctions(count(update.functions.size())), update.functions);
}

Result<std::vector<WorkerMessage>> read(capnp::List<schema::WorkerMessage>::Reader from) {
  return read_batch<WorkerMessage>("a batch of a worker", from);
}
Result<std::vector<WorkerOrder>> read(capnp::List<schema::WorkerOrder>::Reader from) {
  return read_batch<WorkerOrder>("a batch of orders", from);
}
Result<std::vector<DataPlaneMessage>> read(capnp::List<schema::DataPlaneMessage>::Reader from) {
  return read_batch<DataPlaneMessage>("a batch of a data plane", from);
}
Result<std::vector<OrderPart>> read(capnp::List<schema::DataPlaneOrder>::Reader from) {
  return read_batch<OrderPart>("a batch of routes", from);
}

// --- logs ---------------------------------------------------------------------------------------------------------

void write(schema::LogQuery::Builder to, const LogQuery& from) {
  to.setSandbox(from.sandbox.value);
  to.setLinesMax(from.lines_max);
}
Result<LogQuery> read(schema::LogQuery::Reader from) {
  return checked<LogQuery>("a query for logs", [&](LogQuery& to, Faults&) {
    to.sandbox.value = from.getSandbox();
    to.lines_max = from.getLinesMax();
  });
}

void write(schema::LogAnswer::Builder to, const LogAnswer& from) {
  auto lines = to.initLines(count(from.lines.size()));
  for (std::size_t i = 0; i < from.lines.size(); ++i) {
    auto line = lines[count(i)];
    line.setTimeUs(from.lines[i].time_us);
    line.setIsErrorStream(from.lines[i].is_error_stream);
    line.setText(text(from.lines[i].text));
  }
}
Result<LogAnswer> read(schema::LogAnswer::Reader from) {
  return checked<LogAnswer>("an answer with logs", [&](LogAnswer& to, Faults&) {
    const auto lines = from.getLines();
    to.lines.reserve(lines.size());
    for (auto line : lines) to.lines.push_back({line.getTimeUs(), line.getIsErrorStream(), text(line.getText())});
  });
}

}  // namespace dirigent::rpc
