// SPDX-License-Identifier: MIT
#include "sandbox/process/images.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

}  // namespace

std::vector<std::string> make_environment(const StartSandbox& order, std::uint16_t port,
                                          const std::vector<std::string>& of_image) {
  std::map<std::string, std::string> variables{{"PATH", kPath}, {"HOME", "/tmp"}};
  for (const auto& line : of_image) {
    const auto equals = line.find('=');
    if (equals != std::string::npos && equals > 0 && line.find('\0') == std::string::npos)
      variables[line.substr(0, equals)] = line.substr(equals + 1);
  }
  for (const auto& [name, value] : order.spec.environment) variables[name] = value;
  // Facts, which the user cannot choose.
  variables["PORT"] = std::to_string(port);
  variables["FUNCTION_NAME"] = order.function.value;
  variables["REVISION"] = revision_name(order.function, order.revision);
  variables["SANDBOX_ID"] = to_string(order.id);
  std::vector<std::string> lines;
  for (const auto& [name, value] : variables) lines.push_back(name + "=" + value);
  return lines;
}

std::vector<std::string> make_command(const ImageConfig& config, const std::vector<std::string>& arguments) {
  std::vector<std::string> command = config.entrypoint;
  const auto& rest = arguments.empty() ? config.command : arguments;
  command.insert(command.end(), rest.begin(), rest.end());
  return command;
}

namespace {

Status fill_exec(const Image& image, wire::Order& out) {
  struct stat status {};
  if (::stat(image.location.c_str(), &status) != 0) {
    return failure(errno == EACCES ? ErrorCode::permission_denied : ErrorCode::not_found,
                   "cannot execute {}: {} (exec: names a program on the worker's host)", image.location,
                   std::generic_category().message(errno));
  }
  if (!S_ISREG(status.st_mode) || (status.st_mode & 0111) == 0) {
    return failure(ErrorCode::not_found, "cannot execute {}: it is not an executable file", image.location);
  }
  out.root = wire::RootKind::host;
  out.directory = std::filesystem::path(image.location).parent_path().lexically_normal().string();
  out.arguments = image.arguments;
  out.arguments.insert(out.arguments.begin(), image.location);
  out.working_directory = out.directory;
  return {};
}

Status fill_root(const Image& image, const std::string& directory, wire::Order& out) {
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return failure(ErrorCode::not_found, "cannot use {} as a root: there is no such directory on the worker's host",
                   directory);
  }
  if (out.arguments.empty()) {
    return failure(ErrorCode::invalid_argument,
                   "the image {} has no command of its own: give the program and its arguments as arguments",
                   image.location);
  }
  out.root = wire::RootKind::overlay;
  out.directory = directory;
  out.working_directory = "/";
  return {};
}

// Several layers are told as lines: no path of the store has a line break in it.
Status fill_image(const Image& image, const StoredImage& stored, const StartSandbox& order, std::uint16_t port,
                  wire::Order& out) {
  out.arguments = make_command(stored.config, order.spec.arguments);
  out.environment = make_environment(order, port, stored.config.environment);
  if (out.arguments.empty()) {
    return failure(ErrorCode::invalid_argument,
                   "the image {} has no command of its own: give the program and its arguments as arguments",
                   image.location);
  }
  out.root = wire::RootKind::overlay;
  for (const auto& layer : stored.layers) out.directory += (out.directory.empty() ? "" : "\n") + layer;
  out.working_directory = stored.config.working_directory.empty() ? "/" : stored.config.working_directory;
  return {};
}

}  // namespace

Result<PreparedOrder> make_order(const StartSandbox& order, std::uint16_t port, const ImageSettings& settings) {
  auto image = parse_image(order.spec.image);
  if (!image) return failure(image.error());
  if (!order.spec.user.empty())
    return failure(ErrorCode::unsupported, "the process runtime gives every sandbox a user of its own, not \"{}\": leave the user out, "
                   "or use a worker with --runtime oci", order.spec.user);
  PreparedOrder prepared;
  wire::Order& out = prepared.wire;
  out.tmp_bytes = static_cast<std::uint64_t>(settings.tmp_max.value);
  out.environment = make_environment(order, port, {});
  out.hostname = to_string(order.id);
  out.port = port;
  out.node = settings.node;
  out.revision = revision_name(order.function, order.revision);
  for (const auto& [name, text] : order.spec.secrets) {
    out.secrets.push_back(name);
    out.secrets.push_back(decode_base64(text).value_or(""));
  }
  Status status;
  switch (image->kind) {
    case ImageKind::builtin:
      out.builtin = image->location;
      break;
    case ImageKind::exec:
      status = fill_exec(*image, out);
      out.arguments.insert(out.arguments.end(), order.spec.arguments.begin(), order.spec.arguments.end());
      break;
    case ImageKind::directory:
      out.arguments = order.spec.arguments;
      status = fill_root(*image, image->location, out);
      break;
    case ImageKind::tar:
    case ImageKind::reference: {
      ImageStore& store = *settings.store;
      prepared.image = store.find(image->location, image->kind == ImageKind::tar ? "" : order.image_digest);
      if (!prepared.image) {
        auto lease = image->kind == ImageKind::tar ? store.tar(image->location) : store.pull(image->location, order.image_digest);
        if (!lease) return failure(lease.error());
        prepared.image = std::move(*lease);
      }
      status = fill_image(*image, *prepared.image, order, port, out);
      break;
    }
  }
  if (!status) return failure(status.error());
  if (!order.spec.working_directory.empty()) out.working_directory = order.spec.working_directory;
  wire::Writer probe(wire::Kind::order);
  out.write(probe);
  if (probe.bytes().size() > wire::kMessageBytesMax) {
    return failure(ErrorCode::invalid_argument, "arguments, environment and secrets take {} bytes, at most {} are possible",
                   probe.bytes().size(), wire::kMessageBytesMax);
  }
  return prepared;
}

}  // namespace dirigent::sandbox
