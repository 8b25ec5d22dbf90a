// SPDX-License-Identifier: MIT
//
// Catch2 version 2 (Debian 12) or 3 (Debian 13, Ubuntu 24.04).
#pragma once
#if CATCH_V3
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
