// SPDX-License-Identifier: MIT
#include "roles/control/replicated_catalog.h"

#include "catch.h"

using namespace dirigent;
using namespace dirigent::roles;

namespace {

Function function_named(const std::string& name, std::uint32_t revisions = 1) {
  Function function;
  function.name = FunctionName{name};
  for (std::uint32_t i = 1; i <= revisions; ++i) {
    Revision revision;
    revision.number = RevisionNumber{i};
    revision.spec.image = "builtin:hello";
    function.revisions.push_back(std::move(revision));
  }
  function.serving = RevisionNumber{revisions};
  return function;
}

std::string put(const Function& function) { return ReplicatedCatalog::encode(core::PutFunction{function, false}); }
std::string set(const std::string& node, NodeUse use) { return ReplicatedCatalog::encode(core::SetNodeUse{NodeId{node}, use}); }

void commit(ReplicatedCatalog& catalog, const std::string& command) {
  const Status applied = catalog.apply(command);
  INFO((applied ? "" : applied.error().message));
  REQUIRE(applied);
}

// Three functions (one of them replaced, one dropped), two nodes, three members of the roster of which one has left.
ReplicatedCatalog some_catalog() {
  ReplicatedCatalog catalog;
  commit(catalog, put(function_named("a")));
  commit(catalog, put(function_named("b")));
  commit(catalog, put(function_named("c")));
  commit(catalog, put(function_named("a", 2)));
  commit(catalog, ReplicatedCatalog::encode(core::DropFunction{FunctionName{"b"}}));
  commit(catalog, set("n1", NodeUse::drained));
  commit(catalog, set("n2", NodeUse::cordoned));
  commit(catalog, set("n3", NodeUse::cordoned));
  commit(catalog, set("n3", NodeUse::open));
  commit(catalog, ReplicatedCatalog::encode_roster({"w n1", "w n2", "d p1"}, {}));
  commit(catalog, ReplicatedCatalog::encode_roster({}, {"w n2"}));
  return catalog;
}

void check_some_catalog(const ReplicatedCatalog& catalog) {
  const auto functions = catalog.functions();
  REQUIRE(functions.size() == 2);
  CHECK(functions[0].name.value == "a");
  CHECK(functions[0].revisions.size() == 2);
  CHECK(functions[0].serving == RevisionNumber{2});
  CHECK(functions[1].name.value == "c");
  const auto nodes = catalog.node_uses();
  REQUIRE(nodes.size() == 2);
  CHECK(nodes[0].node.value == "n1");
  CHECK(nodes[0].use == NodeUse::drained);
  CHECK(nodes[1].use == NodeUse::cordoned);
  CHECK(catalog.roster() == Roster{"d p1", "w n1"});
}

}  // namespace

TEST_CASE("replicated catalog: commands add up to functions, uses of nodes, and the roster") { check_some_catalog(some_catalog()); }

TEST_CASE("replicated catalog: a snapshot brings all of it to a member that had something else") {
  const ReplicatedCatalog catalog = some_catalog();
  ReplicatedCatalog other;
  commit(other, put(function_named("gone")));
  commit(other, set("n9", NodeUse::drained));
  REQUIRE(other.restore(catalog.snapshot()));
  check_some_catalog(other);
  CHECK(other.snapshot() == catalog.snapshot());
  ReplicatedCatalog empty;
  REQUIRE(other.restore(empty.snapshot()));
  CHECK(other.functions().empty());
  CHECK(other.node_uses().empty());
  CHECK(other.roster().empty());
}

TEST_CASE("replicated catalog: what cannot be read is refused and changes nothing") {
  ReplicatedCatalog catalog = some_catalog();
  const std::string before = catalog.snapshot();
  const std::string separator(1, '\0');
  for (const std::string& wrong : {std::string(), std::string("X"), "P" + std::string("a"), "P" + std::string("a") + separator + "{", "N" + std::string("n1"),
                                   "N" + std::string("n1") + separator + "asleep"}) {
    CAPTURE(wrong);
    const Status applied = catalog.apply(wrong);
    REQUIRE_FALSE(applied);
    CHECK(applied.error().code != ErrorCode::internal);
    CHECK(catalog.snapshot() == before);
  }
  // Every snapshot that was cut is refused, but for cuts between two entries, which are whole snapshots of less.
  std::size_t whole = 0;
  std::size_t tried = 0;
  for (std::size_t length = 0; length < before.size(); length += 23, ++tried) {
    if (catalog.restore(before.substr(0, length))) {
      ++whole;
      catalog = some_catalog();
    }
    REQUIRE(catalog.snapshot() == before);
  }
  CHECK(tried > 50);
  CHECK(whole < 6);
}
