// SPDX-License-Identifier: MIT
//
// Registration by HTML form, as the clients of the original Dirigent send it (the Invitro loader among them): POST on
// any path registers, plus /check, /patch and /health. Order of checks, statuses and texts are the original's; where it
// crashed or answered 200 for a failure, this answers with a status that says so. docs/api.md lists both.
// Runs on the control role's loop.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dirigent/io/http.h"
#include "dirigent/roles/control_service.h"

namespace dirigent::roles {

struct FormApiOptions {
  // The answer to a registration, verbatim ("10.0.1.254:8079"). Empty: the addresses of all data planes, joined by `;`.
  std::string load_balancer_address;
  // (pattern, image): the first pattern that fits replaces the image. A pattern ends with * to fit every continuation.
  // The default makes the published workloads of the original run without a registry.
  std::vector<std::pair<std::string, std::string>> image_map{{"docker.io/cvetkovic/*", "builtin:trace"},
                                                             {"cvetkovic/*", "builtin:trace"}};
};

// `service` must outlive the server that uses the handler.
io::HttpHandler make_form_api(ControlService& service, FormApiOptions options = {});

}  // namespace dirigent::roles
