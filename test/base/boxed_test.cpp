// SPDX-License-Identifier: MIT
#include "dirigent/base/boxed.h"

#include <string>

#include "catch.h"

namespace dirigent {
namespace {

TEST_CASE("boxed: takes a pointer, is empty at first, and keeps what it is given") {
  STATIC_REQUIRE(sizeof(Boxed<std::string>) == sizeof(void*));
  Boxed<std::string> box;
  CHECK_FALSE(box);
  CHECK(std::optional<std::string>(box) == std::nullopt);
  box = std::string("one");
  REQUIRE(box);
  CHECK(*box == "one");
  const std::string* place = &*box;
  box = std::string("two");
  CHECK(&*box == place);
  CHECK(box->size() == 3);
  CHECK(std::optional<std::string>(box) == "two");
  box.reset();
  CHECK_FALSE(box);
}

TEST_CASE("boxed: a copy is its own, a move takes all") {
  Boxed<std::string> box;
  box = std::string("one");
  Boxed<std::string> copy = box;
  copy = std::string("two");
  CHECK(*box == "one");
  Boxed<std::string> empty;
  copy = empty;
  CHECK_FALSE(copy);
  const Boxed<std::string> moved = std::move(box);
  CHECK(*moved == "one");
}

}  // namespace
}  // namespace dirigent
