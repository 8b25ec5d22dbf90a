// SPDX-License-Identifier: MIT
//
// The user that an image names, as numbers: looked up in the image's own /etc/passwd and /etc/group.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "sandbox/images/store.h"

namespace dirigent::sandbox {

struct ImageUser {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  // others that it is a member of
  std::string home;                   // "" = not told
};

// `user` is UID[:GID] or NAME[:GROUP], or a mixture; "" is root. Names must be in the image; the group of a number that is
// not is 0, as it is for Docker. not_found: the image has no such user or group. Reads files.
Result<ImageUser> resolve_user(const StoredImage& image, const std::string& user);

}  // namespace dirigent::sandbox
