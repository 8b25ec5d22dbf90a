// SPDX-License-Identifier: MIT
#include "roles/link_metrics.h"

namespace dirigent::roles {

void write_link_metrics(io::PrometheusWriter& writer, const rpc::LinkCounters& counters, std::string_view peer) {
  static constexpr double kBounds[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 3};
  writer.histogram("dirigent_rpc_seconds", "A call to its answer, which may wait 0.25 s for a message to travel with.", counters.answer_times, kBounds,
                   {{"method", "deliver"}, {"peer", peer}});
}

}  // namespace dirigent::roles
