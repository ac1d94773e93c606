#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "workload/graph_template.h"

namespace astra {

/// Copy a sequence of Python Graph objects into node descriptions, one list per NPU.
[[nodiscard]] std::vector<std::vector<NodeSpec>> read_graphs(nanobind::sequence graphs);

}  // namespace astra
