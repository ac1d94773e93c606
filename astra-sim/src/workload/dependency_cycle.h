#pragma once

#include <string>

#include "workload/graph_template.h"

namespace astra {

/// Name a dependency cycle of a graph as "3 (a) -> 5 (b) -> 3 (a)"; empty when there is none.
[[nodiscard]] std::string describe_cycle(const NpuGraph& graph);

}  // namespace astra
