#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "workload/graph_template.h"

namespace astra {

/// A part of a ticket that has finished.
struct Completion {
  TicketNumber ticket = 0;
  std::int64_t part = 0;
  Time finish_ns = 0;
};

/// One submission of a template: its numbers and what is left to do.
struct Ticket {
  TicketNumber number = 0;
  std::shared_ptr<const GraphTemplate> structure;
  std::vector<NpuId> npus;               ///< by position
  std::vector<Time> durations_ns;        ///< by duration slot
  std::vector<Bytes> sizes;              ///< by size slot
  std::vector<NpuId> group_npus;         ///< members of all groups laid end to end
  std::vector<std::uint32_t> runs;       ///< handle of the run of each position
  std::vector<std::uint32_t> part_left;  ///< nodes left of each part
  std::uint32_t parts_left = 0;
};

/// The graph of one position of a ticket while it runs.
struct GraphRun {
  /// Values of `parents_left` past the last parent.
  static constexpr std::uint32_t kRunning = UINT32_MAX - 1;
  static constexpr std::uint32_t kFinished = UINT32_MAX;

  const NpuGraph* graph = nullptr;
  std::uint32_t ticket = 0;  ///< handle
  std::uint32_t position = 0;
  NpuId npu = 0;
  std::vector<std::uint32_t> parents_left;  ///< per node; kRunning and kFinished later
  std::vector<std::uint64_t> next_stream;   ///< per channel: 0 the whole system, 1 + g group g
};

}  // namespace astra
