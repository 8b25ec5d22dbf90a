// SPDX-License-Identifier: MIT
#include "cli/ctl/front_plan.h"

#include "catch.h"
#include "fakes/contains.h"

using namespace dirigent;
using namespace dirigent::cli;

namespace {

constexpr Instant kStart{};

std::vector<FrontSlot> slots_of(const std::vector<std::string>& addresses, bool are_up = true) {
  std::vector<FrontSlot> slots;
  for (const auto& address : addresses) slots.push_back({address, !address.empty() && are_up});
  return slots;
}

std::vector<std::string> addresses_of(const std::vector<FrontSlot>& slots) {
  std::vector<std::string> addresses;
  for (const auto& slot : slots) addresses.push_back(slot.address);
  return addresses;
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("front: a data plane gets a free slot and keeps it, and its first check comes before its first request") {
  FrontKeeper keeper;
  auto changes = keeper.update(slots_of({"", "", ""}), {"10.0.0.1:80", "10.0.0.2:80"}, kStart);
  CHECK(addresses_of(changes.slots) == Words{"10.0.0.1:80", "10.0.0.2:80", ""});
  REQUIRE(changes.commands.size() == 2);
  CHECK(changes.commands[0] == "set server dirigent_data_planes/plane1 addr 10.0.0.1 port 80; set server dirigent_data_planes/plane1 state ready; "
                               "set server dirigent_data_planes/plane1 health down");
  changes = keeper.update(slots_of({"10.0.0.2:80", "", "10.0.0.1:80"}), {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}, kStart);
  CHECK(addresses_of(changes.slots) == Words{"10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"});
  changes = keeper.update(changes.slots, {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}, kStart);
  CHECK(changes.commands.empty());
}

TEST_CASE("front: one that is not named any more goes when its checks fail and it has been missing for a while") {
  FrontKeeper keeper;
  const auto up = slots_of({"10.0.0.1:80", "10.0.0.2:80"});
  const auto down = slots_of({"10.0.0.1:80", "10.0.0.2:80"}, false);
  CHECK(keeper.update(down, {"10.0.0.2:80"}, kStart).commands.empty());
  CHECK(keeper.update(up, {"10.0.0.2:80"}, kStart + 1h).commands.empty());  // it serves, whatever the control plane knows
  const auto changes = keeper.update(down, {"10.0.0.2:80"}, kStart + 1h);
  CHECK(changes.commands == Words{"set server dirigent_data_planes/plane1 state maint"});
  CHECK(addresses_of(changes.slots) == Words{"", "10.0.0.2:80"});
  // It has come back in between: the clock starts anew.
  FrontKeeper other;
  CHECK(other.update(down, {}, kStart).commands.empty());
  CHECK(other.update(down, {"10.0.0.1:80", "10.0.0.2:80"}, kStart + 5s).commands.empty());
  CHECK(other.update(down, {}, kStart + 11s).commands.empty());
  CHECK(other.update(down, {}, kStart + 22s).commands.size() == 2);
}

TEST_CASE("front: its slot is given away in the same round") {
  FrontKeeper keeper;
  const auto down = slots_of({"10.0.0.1:80"}, false);
  const auto early = keeper.update(down, {"10.0.0.2:80"}, kStart);
  CHECK(early.left_out == Words{"10.0.0.2:80"});
  CHECK(early.commands.empty());
  const auto late = keeper.update(down, {"10.0.0.2:80"}, kStart + 10s);
  CHECK(late.left_out.empty());
  CHECK(late.commands.front() == "set server dirigent_data_planes/plane1 state maint");
  CHECK(addresses_of(late.slots) == Words{"10.0.0.2:80"});
}

TEST_CASE("front: an address in two slots loses the second") {
  FrontKeeper keeper;
  const auto changes = keeper.update(slots_of({"10.0.0.1:80", "10.0.0.1:80"}), {"10.0.0.1:80"}, kStart);
  CHECK(changes.commands == Words{"set server dirigent_data_planes/plane2 state maint"});
}

TEST_CASE("front: what a running HAProxy says of its servers is read by the names of its columns") {
  const auto slots = read_front_slots(
      "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_port\n"
      "4 dirigent_data_planes 1 plane1 10.0.0.1 2 0 1 8080\n4 dirigent_data_planes 2 plane2 127.0.0.1 0 5 1 1\n"
      "4 dirigent_data_planes 3 plane3 ::1 0 0 1 81\n4 dirigent_data_planes 4 plane4 10.0.0.9 2 4 1 82\n\n");
  REQUIRE(slots.has_value());
  CHECK(*slots == std::vector<FrontSlot>{{"10.0.0.1:8080", true}, {"", false}, {"[::1]:81", false}, {"10.0.0.9:82", true}});
  CHECK(read_front_slots("Can't find backend.\n").error().code == ErrorCode::corrupt);
  CHECK(read_front_slots("").error().code == ErrorCode::corrupt);
}

TEST_CASE("front: only numeric addresses can be given to a running HAProxy") {
  CHECK(is_front_address("10.0.0.1:80"));
  CHECK(is_front_address("[::1]:80"));
  for (const char* wrong : {"0.0.0.0:80", ":80", "[::]:80", "host:80", "unix:/x", "10.0.0.1", "10.0.0.1:0", ""}) {
    CAPTURE(wrong);
    CHECK_FALSE(is_front_address(wrong));
  }
}

TEST_CASE("front: the configuration has a server for each slot, free ones disabled") {
  FrontOptions options;
  options.socket = "/run/h.sock";
  options.bind = "*:8080";
  const std::string text = front_configuration(options, slots_of({"10.0.0.1:80", ""}));
  CHECK_CONTAINS(text, "    server plane1 10.0.0.1:80 check\n    server plane2 127.0.0.1:1 check disabled\n");
  CHECK_CONTAINS(text, "stats socket /run/h.sock mode 600 level admin");
  CHECK_CONTAINS(text, "if { path_beg /function/ /async-function/ }");
  CHECK(text.find("dirigent_registration") == std::string::npos);
  options.form_bind = "*:9091";
  options.form_servers = {"a:9091", "b:9091"};
  options.is_h2 = true;
  const std::string more = front_configuration(options, slots_of({"10.0.0.1:80"}));
  CHECK_CONTAINS(more, "server plane1 10.0.0.1:80 check proto h2 ws h1\n");
  CHECK_CONTAINS(more, "server control2 b:9091 check\n");
}
