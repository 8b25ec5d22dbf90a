// SPDX-License-Identifier: MIT
//
// A control plane on a thread of its own that routes one function to fixed addresses, for data planes that are processes.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dirigent/io/loop.h"
#include "dirigent/rpc/cluster.h"

namespace dirigent::test {

class FakeControlPlane final : public rpc::ControlHandler {
 public:
  FakeControlPlane(std::string function, std::vector<std::string> sandboxes)
      : function_(std::move(function)), sandboxes_(std::move(sandboxes)) {
    rpc::ControlServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.term = Term{1};
    server_ = std::move(*rpc::serve_control(loop_, options, *this));
    address_ = server_->address().text;
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~FakeControlPlane() {
    loop_.post([this] {
      server_->close();
      loop_.stop();
    });
    thread_.join();
    server_.reset();
  }
  [[nodiscard]] const std::string& address() const { return address_; }

  Status worker_joined(SessionId, WorkerHello) override { return {}; }
  void worker_said(SessionId, std::vector<WorkerMessage>) override {}
  void worker_lost(SessionId, std::string) override {}
  void data_plane_said(SessionId, std::vector<DataPlaneMessage>) override {}
  void data_plane_lost(SessionId, std::string) override {}
  Status data_plane_joined(SessionId session, DataPlaneHello) override {
    loop_.post([this, session] { route(session); });
    return {};
  }

 private:
  void route(SessionId session) {
    RouteUpdate update;
    update.term = Term{1};
    update.number = ++number_;
    update.complete = true;
    FunctionRoute route;
    route.function = FunctionName{function_};
    route.revision = RevisionNumber{1};
    route.version = RouteVersion{++version_};
    for (std::size_t i = 0; i < sandboxes_.size(); ++i) {
      RoutedSandbox sandbox;
      sandbox.id = SandboxId{i + 1};
      sandbox.node = NodeId{"node1"};
      sandbox.address.direct = sandbox.address.published = sandboxes_[i];
      route.sandboxes.push_back(sandbox);
    }
    update.functions.push_back(route);
    server_->send(session, update);
  }

  io::Loop loop_;
  std::string function_;
  std::vector<std::string> sandboxes_;
  std::unique_ptr<rpc::ControlServer> server_;
  std::string address_;
  std::uint64_t number_ = 0;
  std::uint64_t version_ = 0;
  std::thread thread_;
};

}  // namespace dirigent::test
