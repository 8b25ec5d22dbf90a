// SPDX-License-Identifier: MIT
#include "sandbox/containerd/api.h"

#include "sandbox/containerd/protobuf.h"

namespace dirigent::sandbox {

namespace {

using protobuf::Writer;

constexpr const char* kContainers = "/containerd.services.containers.v1.Containers/";
constexpr const char* kTasks = "/containerd.services.tasks.v1.Tasks/";
constexpr const char* kNodeLabel = "dirigent.node";

// containerd.runc.v1.Options: which program the shim runs.
Writer runc_options(const std::string& program) {
  return Writer::any("containerd.runc.v1.Options", Writer().text(6, program).bytes());
}

}  // namespace

ContainerdApi::ContainerdApi(io::Loop& loop, const std::string& address, Duration timeout)
    : timeout_(timeout), client_(loop, address, {{"containerd-namespace", kNamespace}}) {}

io::Task<std::string> ContainerdApi::version() {
  auto answer = co_await client_.call("/containerd.services.version.v1.Version/Version", "", timeout_);
  if (!answer) co_return failure(answer.error());
  co_return protobuf::text_in(*answer, 1);
}

io::Task<void> ContainerdApi::make_namespace() {
  std::string request = Writer().message(1, Writer().text(1, kNamespace)).bytes();
  auto answer = co_await client_.call("/containerd.services.namespaces.v1.Namespaces/Create", std::move(request), timeout_);
  if (!answer && answer.error().code != ErrorCode::already_exists) co_return failure(answer.error());
  co_return Status{};
}

io::Task<void> ContainerdApi::create_container(ContainerdContainer container) {
  Writer runtime;
  runtime.text(1, "io.containerd.runc.v2");
  if (!container.program.empty()) runtime.message(2, runc_options(container.program));
  Writer message;
  message.text(1, container.id).entry(2, kNodeLabel, container.node).message(4, runtime);
  message.message(5, Writer::any("types.containerd.io/opencontainers/runtime-spec/1/Spec", container.config));
  std::string request = Writer().message(1, message).bytes();
  auto answer = co_await client_.call(std::string(kContainers) + "Create", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return Status{};
}

io::Task<void> ContainerdApi::delete_container(std::string id) {
  std::string request = Writer().text(1, id).bytes();
  auto answer = co_await client_.call(std::string(kContainers) + "Delete", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return Status{};
}

io::Task<std::vector<std::string>> ContainerdApi::list_containers(std::string node) {
  std::string request = Writer().text(1, fmt::format("labels.\"{}\"=={}", kNodeLabel, node)).bytes();
  auto answer = co_await client_.call(std::string(kContainers) + "List", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  std::vector<std::string> ids;
  protobuf::Reader reader(*answer);
  while (const auto field = reader.next()) {
    if (field->number == 1) ids.push_back(protobuf::text_in(field->bytes, 1));
  }
  co_return ids;
}

io::Task<std::uint32_t> ContainerdApi::create_task(ContainerdTask task) {
  Writer message;
  message.text(1, task.id);
  for (const auto& mount : task.root) {
    Writer one;
    one.text(1, mount.type).text(2, mount.source);
    for (const auto& option : mount.options) one.text(4, option);
    message.message(3, one);
  }
  message.text(5, task.output).text(6, task.errors);
  if (!task.program.empty()) message.message(9, runc_options(task.program));
  auto answer = co_await client_.call(std::string(kTasks) + "Create", message.bytes(), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return static_cast<std::uint32_t>(protobuf::number_in(*answer, 2));
}

io::Task<void> ContainerdApi::start_task(std::string id) {
  std::string request = Writer().text(1, id).bytes();
  auto answer = co_await client_.call(std::string(kTasks) + "Start", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return Status{};
}

io::Task<void> ContainerdApi::kill_task(std::string id, std::uint32_t signal) {
  std::string request = Writer().text(1, id).number(3, signal).number(4, 1).bytes();
  auto answer = co_await client_.call(std::string(kTasks) + "Kill", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return Status{};
}

io::Task<std::uint32_t> ContainerdApi::wait_task(std::string id, Duration timeout) {
  std::string request = Writer().text(1, id).bytes();
  auto answer = co_await client_.call(std::string(kTasks) + "Wait", std::move(request), timeout);
  if (!answer) co_return failure(answer.error());
  co_return static_cast<std::uint32_t>(protobuf::number_in(*answer, 1));
}

io::Task<std::uint32_t> ContainerdApi::delete_task(std::string id) {
  std::string request = Writer().text(1, id).bytes();
  auto answer = co_await client_.call(std::string(kTasks) + "Delete", std::move(request), timeout_);
  if (!answer) co_return failure(answer.error());
  co_return static_cast<std::uint32_t>(protobuf::number_in(*answer, 3));
}

}  // namespace dirigent::sandbox
