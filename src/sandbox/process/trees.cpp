// SPDX-License-Identifier: MIT
#include "sandbox/process/trees.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "dirigent/base/text.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

namespace dirigent::sandbox {

namespace {

// An image with more directories than fit into a message gets the whole tree of the host while its root is put together.
constexpr std::size_t kTreesMax = 12;
static_assert(kTreesMax <= wire::kFdsMax);

Result<io::FileDescriptor> open_tree(const std::string& path) {
  io::FileDescriptor tree(static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | static_cast<unsigned>(AT_RECURSIVE))));
  if (tree.is_open()) return tree;
  const int error = errno;
  if (error == ENOENT || error == ENOTDIR)
    return failure(ErrorCode::not_found, "cannot use {} as a root: there is no such directory on the worker's host", path);
  return errno_failure(error, fmt::format("cannot make a mount of {}", path));
}

}  // namespace

Result<std::vector<io::FileDescriptor>> open_trees(wire::Order& order) {
  std::vector<io::FileDescriptor> trees;
  if (order.root == wire::RootKind::empty) return trees;
  std::vector<std::string> paths;
  if (order.root == wire::RootKind::overlay) {
    for (const auto line : split(order.directory, '\n')) paths.emplace_back(line);
  }
  order.has_host_tree = paths.empty() || paths.size() > kTreesMax ? 1 : 0;
  if (order.has_host_tree != 0) paths = {"/"};
  for (const auto& path : paths) {
    auto tree = open_tree(path);
    if (!tree) return failure(tree.error());
    trees.push_back(std::move(*tree));
  }
  return trees;
}

}  // namespace dirigent::sandbox
