// SPDX-License-Identifier: MIT
//
// The model's messages to and from schemas/cluster.capnp.
//
// write() cannot fail. read() trusts nothing: an enumerant nobody knows, a number out of its range or a broken pointer is
// an error (corrupt) that names the field; union members of a newer peer are skipped.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cluster.capnp.h"
#include "dirigent/base/result.h"
#include "dirigent/model/messages.h"
#include "dirigent/rpc/cluster.h"

namespace dirigent::rpc {

// A data plane's order, or a part of one: an update of many functions travels in several.
struct OrderPart {
  DataPlaneOrder order;
  bool continues = false;  // the next part belongs to the same order
};
// Cuts at about a mebibyte on the wire. The parts in order are the same order.
std::vector<OrderPart> split(DataPlaneOrder order);
// Puts parts together again, across batches.
class OrderJoiner {
 public:
  // The orders that are complete now. An error when the parts of one update take more than kJoinedBytesMax.
  Result<std::vector<DataPlaneOrder>> join(std::vector<OrderPart> parts);

 private:
  RouteUpdate pending_;
  std::size_t pending_bytes_ = 0;
};
inline constexpr std::size_t kJoinedBytesMax = std::size_t{1} << 30;

// About how many bytes a message takes on the wire; decides how many share a batch and how large its arena starts.
std::size_t weight(const WorkerHello& hello);
std::size_t weight(const WorkerMessage& message);
std::size_t weight(const WorkerOrder& order);
std::size_t weight(const DataPlaneMessage& message);
std::size_t weight(const OrderPart& part);

void write(schema::WorkerHello::Builder to, const WorkerHello& from);
void write(schema::DataPlaneHello::Builder to, const DataPlaneHello& from);
void write(schema::WorkerMessage::Builder to, const WorkerMessage& from);
void write(schema::WorkerOrder::Builder to, const WorkerOrder& from);
void write(schema::DataPlaneMessage::Builder to, const DataPlaneMessage& from);
void write(schema::DataPlaneOrder::Builder to, const OrderPart& from);
void write(schema::LogQuery::Builder to, const LogQuery& from);
void write(schema::LogAnswer::Builder to, const LogAnswer& from);

Result<WorkerHello> read(schema::WorkerHello::Reader from);
Result<DataPlaneHello> read(schema::DataPlaneHello::Reader from);
Result<std::vector<WorkerMessage>> read(capnp::List<schema::WorkerMessage>::Reader from);
Result<std::vector<WorkerOrder>> read(capnp::List<schema::WorkerOrder>::Reader from);
Result<std::vector<DataPlaneMessage>> read(capnp::List<schema::DataPlaneMessage>::Reader from);
Result<std::vector<OrderPart>> read(capnp::List<schema::DataPlaneOrder>::Reader from);
Result<LogQuery> read(schema::LogQuery::Reader from);
Result<LogAnswer> read(schema::LogAnswer::Reader from);

}  // namespace dirigent::rpc
