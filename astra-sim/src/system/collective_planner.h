#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

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
  std::uint32_t dimensions = ~0U;  ///< bit d: logical dimension d is involved; unused in groups
  bool in_group = false;           ///< a group smaller than the system, described by `group`
  std::int32_t custom = -1;        ///< index of a custom collective; -1: the configured algorithms
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

/// Turns collectives into plans: chunk size, number of streams, phases per logical dimension.
///
/// Owns the algorithms. The logical dimensions of a collective are those of the network, or a single one of
/// all NPUs where its algorithm says so (oneRing, ...).
class CollectivePlanner {
 public:
  /// Plan for a system; it and the topology must outlive the planner. Throws std::invalid_argument for an
  /// algorithm that does not exist.
  CollectivePlanner(const SystemSpec& system, const Topology& topology);

  /// Add a custom collective; its index is the number of those added before.
  void add_custom(std::unique_ptr<Algorithm> algorithm) { customs_.push_back(std::move(algorithm)); }

  /// Write the plan of a collective into `plan`.
  void plan(const CollectiveRequest& request, Plan& plan) const;

  /// Throw std::invalid_argument if a collective as requested (npu 0 will do) can never complete: an
  /// algorithm that cannot run on so many NPUs, no dimension with more than one NPU, ...
  void check(const CollectiveRequest& request) const;

  /// Number of logical dimensions of a collective.
  [[nodiscard]] std::size_t logical_dimensions(CollectiveKind kind) const;

 private:
  [[nodiscard]] Bytes cut(const CollectiveRequest& request, Plan& plan) const;
  [[nodiscard]] Algorithm* algorithm(CollectiveKind kind, std::size_t dimension) const;
  [[nodiscard]] Algorithm* group_algorithm(CollectiveKind kind) const;
  [[nodiscard]] Members members(const CollectiveRequest& request, std::size_t dimension) const;
  [[nodiscard]] bool flat(CollectiveKind kind) const;
  void plan_whole(const CollectiveRequest& request, Algorithm* algorithm, Bytes chunk, Plan& plan) const;
  void plan_dimensions(const CollectiveRequest& request, Bytes chunk, Plan& plan) const;
  void plan_bandwidth_aware_all_reduce(const CollectiveRequest& request, Bytes chunk, Plan& plan) const;
  Bytes add_phase(const CollectiveRequest& request, CollectiveKind kind, std::size_t dimension, Bytes bytes,
                  Plan& plan) const;

  const SystemSpec& system_;
  const Topology& topology_;
  std::array<std::vector<NamedAlgorithm>, kCollectiveKinds> algorithms_;  // per logical dimension
  std::vector<std::unique_ptr<Algorithm>> customs_;
  std::unique_ptr<Algorithm> ring_;  // for groups without an algorithm of their own
};

}  // namespace astra
