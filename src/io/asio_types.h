// SPDX-License-Identifier: MIT
//
// The asio types of this floor with the executor of Loop fixed: the type-erased default costs an allocation an
// operation.
#pragma once

#include <asio/basic_stream_socket.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/basic_stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

namespace dirigent::io {

using Executor = asio::io_context::executor_type;
inline constexpr asio::use_awaitable_t<Executor> use_task{};

using asio::redirect_error;

// TCP and Unix sockets alike.
using StreamSocket = asio::basic_stream_socket<asio::generic::stream_protocol, Executor>;
using StreamDescriptor = asio::posix::basic_stream_descriptor<Executor>;

}  // namespace dirigent::io
