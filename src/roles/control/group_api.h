// SPDX-License-Identifier: MIT
//
// The APIs of a member of a group: any of them may be asked. One that does not lead passes the request on to the leader,
// once; while nobody leads it waits a little for an election to end. /v1/control is about the group itself.
#pragma once

#include "dirigent/io/http.h"

namespace dirigent::roles {

class ControlRoleImpl;

enum class Port { admin, form };  // which of the leader's ports is meant

// `local` answers when this member leads. `role` outlives the handler.
io::HttpHandler answer_anywhere(ControlRoleImpl& role, Port port, io::HttpHandler local);

}  // namespace dirigent::roles
