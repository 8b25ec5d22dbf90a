// SPDX-License-Identifier: MIT
//
// Asynchronous calls on the admin port of a data plane, for `dirigent ctl async` and `ctl dlq` and for other data planes:
//
//   GET    /v1/async[?function=F&state=S&limit=N]   calls, newest last, and the stores
//   GET    /v1/async/ID          one call            421: its store is another data plane's
//   GET    /v1/async/ID/result   as on the invocation port
//   DELETE /v1/async/ID          cancels
//   POST   /v1/async/adopt?directory=D
//   GET    /v1/dlq[?function=F&limit=N]             dead letters
//   GET    /v1/dlq/ID            one, with its request and last answer
//   POST   /v1/dlq/redrive?id=ID | ?all=true[&function=F]
//   DELETE /v1/dlq?id=ID | ?all=true[&function=F]
//
// And the original's poll port: any request whose body is an id.
#pragma once

#include "dirigent/io/http.h"
#include "roles/data/async_desk.h"

namespace dirigent::roles {

bool is_async_path(std::string_view path);
// `desk` nullptr: asynchronous calls are off.
io::Action handle_async(AsyncDesk* desk, io::HttpRequest request, io::HttpResponse& response);
io::Action handle_poll(AsyncDesk& desk, io::HttpRequest request, io::HttpResponse& response);

}  // namespace dirigent::roles
