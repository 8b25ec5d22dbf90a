// SPDX-License-Identifier: MIT
//
// The native admin API (/v1), health and metrics of the control role: parses requests, asks the ControlService, prints
// answers. docs/api.md is its manual. Runs on the control role's loop.
#pragma once

#include "dirigent/io/http.h"
#include "dirigent/roles/control_service.h"

namespace dirigent::roles {

// `service` must outlive the server that uses the handler.
io::HttpHandler make_api(ControlService& service);

}  // namespace dirigent::roles
