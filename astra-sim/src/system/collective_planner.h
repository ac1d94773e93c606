#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/event_handler.h"
#include "network/topology.h"
#include "system/algorithm.h"
#include "system/system_spec.h"

namespace astra {

/// A collective as one NPU issues it.
struct CollectiveRequest {
  NpuId npu = 0;
  CollectiveKind kind = CollectiveKind::kAllReduce;
  Bytes bytes = 0;                 ///< comm_size: the whole buffer; all-gather: this NPU's own shard
  std::uint32_t dimensions = ~0U;  ///< bit d: dimension d is involved; unused in groups
  bool in_group = false;           ///< a group smaller than the system, described by `group`
  Members group;
  TicketNumber ticket = 0;
  std::uint32_t channel = 0;             ///< keeps the streams of different groups apart
  std::uint64_t* next_stream = nullptr;  ///< counter of the streams of this NPU in this channel
  Callback done;
};

/// The way of one collective through the dimensions, and how it is cut into streams.
struct Plan {
  static constexpr std::size_t kMaxPhases = 8;

  std::array<Phase, kMaxPhases> phases;
  std::size_t phase_count = 0;
  std::int64_t streams = 0;
};

/// Turns collectives into plans: chunk size, number of streams, phases per dimension.
class CollectivePlanner {
 public:
  /// Plan for a system; it and the topology must outlive the planner.
  CollectivePlanner(const SystemSpec& system, const Topology& topology);

  /// Write the plan of a collective into `plan`. Without live dimensions it has no phases.
  void plan(const CollectiveRequest& request, Plan& plan) const;

  /// Check that the algorithms a collective would use exist; throws std::invalid_argument otherwise.
  void check_algorithms(CollectiveKind kind, bool in_group) const;

  /// Number of dimensions with more than one NPU that the request involves (1 for groups of 2 or more).
  [[nodiscard]] std::size_t live_dimensions(std::uint32_t dimensions) const;

 private:
  [[nodiscard]] Bytes cut(const CollectiveRequest& request, Plan& plan) const;
  void plan_group(const CollectiveRequest& request, Bytes chunk, Plan& plan) const;
  void plan_dimensions(const CollectiveRequest& request, Bytes chunk, Plan& plan) const;
  void plan_bandwidth_aware_all_reduce(const CollectiveRequest& request, Bytes chunk, Plan& plan) const;
  void add_phase(const CollectiveRequest& request, CollectiveKind kind, std::size_t dimension, Bytes bytes,
                 Plan& plan) const;

  const SystemSpec& system_;
  const Topology& topology_;
};

}  // namespace astra
