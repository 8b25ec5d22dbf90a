// SPDX-License-Identifier: MIT
//
// A gRPC client for unary calls on a unix socket: nghttp2 does the frames, the loop does the socket. Any number of calls
// at a time share one connection, which is made when the first call needs it and again after it broke.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"

namespace dirigent::sandbox {

class GrpcClient {
 public:
  // `headers` go with every call.
  GrpcClient(io::Loop& loop, std::string socket_path, std::map<std::string, std::string> headers);
  GrpcClient(const GrpcClient&) = delete;
  GrpcClient& operator=(const GrpcClient&) = delete;
  // Pending calls end as cancelled.
  ~GrpcClient();

  // `method` is "/package.Service/Method", `request` and the result are encoded messages. unavailable: the server cannot
  // be reached or went away (whether it has done what was asked is not known then); timed_out; else what the server says.
  io::Task<std::string> call(std::string method, std::string request, Duration timeout);

 private:
  class Connection;
  Result<std::shared_ptr<Connection>> connect();

  io::Loop& loop_;
  std::string path_;
  std::map<std::string, std::string> headers_;
  std::shared_ptr<Connection> connection_;
};

}  // namespace dirigent::sandbox
