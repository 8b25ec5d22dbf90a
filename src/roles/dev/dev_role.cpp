// SPDX-License-Identifier: MIT
#include "dirigent/roles/dev_role.h"

#include <utility>

namespace dirigent::roles {

namespace {

class DevRoleImpl final : public DevRole {
 public:
  explicit DevRoleImpl(io::Loop& loop) : loop_(loop) {}

  io::Task<void> open(DevRoleOptions options);
  io::Action stop(Duration drain) override;

  [[nodiscard]] const ControlRole& control() const override { return *control_; }
  [[nodiscard]] const DataRole& data() const override { return *data_; }
  [[nodiscard]] const WorkerRole& worker() const override { return *worker_; }

 private:
  io::Loop& loop_;
  std::unique_ptr<ControlRole> control_;
  std::unique_ptr<DataRole> data_;
  std::unique_ptr<WorkerRole> worker_;
};

io::Task<void> DevRoleImpl::open(DevRoleOptions options) {
  auto control = ControlRole::start(loop_, std::move(options.control));
  if (!control) co_return failure(control.error());
  control_ = std::move(*control);

  auto runtime = make_runtime(loop_, options.runtime, options.worker.node.id, options.worker.node.host_id);
  if (!runtime) co_return failure(runtime.error());
  options.worker.control = {control_->rpc_address()};
  auto worker = co_await WorkerRole::start(loop_, std::move(options.worker), std::move(*runtime));
  if (!worker) co_return failure(worker.error());
  worker_ = std::move(*worker);

  options.data.control = {control_->rpc_address()};
  if (!control_->admin_address().empty()) options.data.async.directory_servers = {control_->admin_address()};
  auto data = DataRole::start(loop_, std::move(options.data));
  if (!data) co_return failure(data.error());
  data_ = std::move(*data);

  const Instant deadline = io::Loop::now() + options.ready_timeout;
  while (!data_->ready() || !worker_->joined()) {
    if (io::Loop::now() >= deadline) {
      co_return failure(ErrorCode::timed_out, "data plane and worker did not join the control plane at {} within {}",
                        control_->rpc_address(), format_duration(options.ready_timeout));
    }
    Status slept = co_await io::sleep_for(loop_, 1ms);
    if (!slept) co_return slept;
  }
  co_return Status{};
}

io::Action DevRoleImpl::stop(Duration drain) {
  if (data_) co_await data_->stop(drain);
  if (worker_) co_await worker_->stop(Duration::zero());  // no request is left that could use a sandbox
  if (control_) co_await control_->stop(1s);
}

}  // namespace

io::Task<std::unique_ptr<DevRole>> DevRole::start(io::Loop& loop, DevRoleOptions options) {
  auto role = std::make_unique<DevRoleImpl>(loop);
  Status opened = co_await role->open(std::move(options));
  if (!opened) {
    co_await role->stop(Duration::zero());
    co_return failure(opened.error());
  }
  std::unique_ptr<DevRole> started = std::move(role);
  co_return started;
}

}  // namespace dirigent::roles
