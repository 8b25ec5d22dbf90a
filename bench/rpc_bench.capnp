# SPDX-License-Identifier: MIT
#
# The interface that bench/rpc_bench.cpp calls.
@0xb8f1c9a3d2e47651;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("dirigent::bench_schema");

interface Echo {
  # Returns `bytes` as they came.
  echo @0 (bytes :Data) -> (bytes :Data);
}
