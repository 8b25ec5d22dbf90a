// SPDX-License-Identifier: MIT
//
// A listening socket, TCP or Unix, bound with errors that say who is in the way. Non-blocking, close-on-exec.
#pragma once

#include <sys/types.h>

#include <string>

#include "dirigent/base/result.h"
#include "dirigent/io/address.h"
#include "dirigent/io/file_descriptor.h"

namespace dirigent::io {

class Listener {
 public:
  // Blocks for a name look-up when the host is a name. already_exists: the address is in use.
  static Result<Listener> open(const Address& address, int backlog);
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  // Removes the socket file, if it is still the one this listener made.
  ~Listener();

  // With the real port.
  [[nodiscard]] const std::string& address() const { return address_; }
  // The descriptor changes its owner; the socket file stays with this object.
  [[nodiscard]] int release_descriptor() { return socket_.release(); }

 private:
  Listener() = default;
  static Result<Listener> open_tcp(const Address& address, int backlog);
  static Result<Listener> open_unix(const Address& address, int backlog);

  FileDescriptor socket_;
  std::string address_;
  std::string unix_path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace dirigent::io
