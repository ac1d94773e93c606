#include "system/collective_planner.h"

#include <stdexcept>
#include <string>

namespace astra {
namespace {

bool involved(const CollectiveRequest& request, std::size_t dimension) {
  return (request.dimensions >> dimension & 1U) != 0;
}

bool aware_all_reduce(const CollectiveRequest& request, const SystemSpec& system) {
  return request.kind == CollectiveKind::kAllReduce && system.local_bandwidth_aware;
}

}  // namespace

CollectivePlanner::CollectivePlanner(const SystemSpec& system, const Topology& topology)
    : system_(system), topology_(topology), ring_(make_algorithm("ring").algorithm) {
  for (std::size_t kind = 0; kind < kCollectiveKinds; ++kind) {
    for (const std::string& name : system.algorithms[kind]) {
      algorithms_[kind].push_back(make_algorithm(name));
    }
  }
}

void CollectivePlanner::plan(const CollectiveRequest& request, Plan& plan) const {
  plan.phase_count = 0;
  const Bytes chunk = cut(request, plan);
  if (request.custom >= 0) {
    plan_whole(request, customs_[static_cast<std::size_t>(request.custom)].get(), chunk, plan);
  } else if (request.in_group) {
    plan_whole(request, group_algorithm(request.kind), chunk, plan);
  } else if (aware_all_reduce(request, system_)) {
    plan_bandwidth_aware_all_reduce(request, chunk, plan);
  } else {
    plan_dimensions(request, chunk, plan);
  }
}

void CollectivePlanner::check(const CollectiveRequest& request) const {
  const std::size_t listed = algorithms_[kind_index(request.kind)].size();
  if (request.custom >= 0 && system_.splits != 1) {
    throw std::invalid_argument("a custom collective needs preferred-dataset-splits = 1, not " +
                                std::to_string(system_.splits));
  }
  if (request.custom < 0 && !request.in_group && listed != logical_dimensions(request.kind)) {
    throw std::invalid_argument("the system configuration names " + std::to_string(listed) +
                                " algorithms for this collective, the network has " +
                                std::to_string(topology_.rank()) + " dimensions");
  }
  Plan plan;
  this->plan(request, plan);
  if (plan.phase_count == 0) {
    throw std::invalid_argument(
        "the collective involves no dimension with more than one NPU and would never complete");
  }
  for (std::size_t i = 0; i < plan.phase_count; ++i) {
    const Phase& phase = plan.phases[i];
    phase.algorithm->check(phase.kind, phase.members.count, phase.in_group);
    if (system_.local_mem_bw_gbps <= 0 && phase.algorithm->makes_reductions(phase.kind)) {
      throw std::invalid_argument("a reduction needs local-mem-bw in the system configuration");
    }
  }
}

std::size_t CollectivePlanner::logical_dimensions(CollectiveKind kind) const {
  return flat(kind) ? 1 : topology_.rank();
}

bool CollectivePlanner::flat(CollectiveKind kind) const {
  const auto& listed = algorithms_[kind_index(kind)];
  return listed.size() == 1 && listed.front().flattens;
}

Algorithm* CollectivePlanner::algorithm(CollectiveKind kind, std::size_t dimension) const {
  return algorithms_[kind_index(kind)][dimension].algorithm.get();
}

// A group uses the configured algorithm if there is one for all dimensions, else the ring.
Algorithm* CollectivePlanner::group_algorithm(CollectiveKind kind) const {
  return algorithms_[kind_index(kind)].size() == 1 ? algorithm(kind, 0) : ring_.get();
}

// comm_size // splits gives the chunk, and a remainder becomes one more full chunk. Other collectives than
// all-gather have chunks of at least one byte per NPU of the system, in groups too.
Bytes CollectivePlanner::cut(const CollectiveRequest& request, Plan& plan) const {
  const Bytes splits = system_.splits;
  Bytes bytes = request.bytes;
  Bytes chunk = bytes / splits;
  if (request.kind != CollectiveKind::kAllGather && chunk < topology_.npus()) {
    chunk = topology_.npus();
    bytes = splits * chunk;
  }
  plan.streams = chunk > 0 ? (bytes + chunk - 1) / chunk : 0;
  return chunk;
}

// One phase among the members of a group, or among all NPUs.
void CollectivePlanner::plan_whole(const CollectiveRequest& request, Algorithm* algorithm, Bytes chunk,
                                   Plan& plan) const {
  Phase& phase = plan.phases[plan.phase_count++];
  phase = {
      .algorithm = algorithm,
      .kind = request.kind,
      .members = request.in_group ? request.group : Members{nullptr, 0, 1, topology_.npus(), request.npu},
      .dimension = 0,
      .bytes = chunk,
      .step_ns = request.in_group ? kGroupStepNs : system_.endpoint_delay_ns,
      .in_group = request.in_group,
      .queues = aware_all_reduce(request, system_) ? LaneUse::kLowerHalf : LaneUse::kAny};
}

void CollectivePlanner::plan_dimensions(const CollectiveRequest& request, Bytes chunk, Plan& plan) const {
  const std::size_t rank = logical_dimensions(request.kind);
  Bytes bytes = chunk;
  for (std::size_t step = 0; step < rank; ++step) {
    const std::size_t d = request.kind == CollectiveKind::kAllGather ? rank - 1 - step : step;
    if (members(request, d).count < 2 || !involved(request, d)) continue;
    bytes = add_phase(request, request.kind, d, bytes, plan);
  }
}

// Reduce-scatter upwards, all-reduce in the last live dimension, all-gather back down.
void CollectivePlanner::plan_bandwidth_aware_all_reduce(const CollectiveRequest& request, Bytes chunk,
                                                        Plan& plan) const {
  std::array<std::size_t, Plan::kMaxPhases> live{};
  std::size_t count = 0;
  for (std::size_t d = 0; d < logical_dimensions(request.kind); ++d) {
    if (members(request, d).count > 1 && involved(request, d)) live[count++] = d;
  }
  if (count == 0) return;
  Bytes bytes = chunk;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    bytes = add_phase(request, CollectiveKind::kReduceScatter, live[i], bytes, plan);
    plan.phases[plan.phase_count - 1].queues = LaneUse::kLowerHalf;
  }
  bytes = add_phase(request, CollectiveKind::kAllReduce, live[count - 1], bytes, plan);
  plan.phases[plan.phase_count - 1].queues = LaneUse::kLowerHalf;
  for (std::size_t i = count - 1; i-- > 0;) {
    bytes = add_phase(request, CollectiveKind::kAllGather, live[i], bytes, plan);
    plan.phases[plan.phase_count - 1].queues = LaneUse::kUpperHalf;
  }
}

Bytes CollectivePlanner::add_phase(const CollectiveRequest& request, CollectiveKind kind,
                                   std::size_t dimension, Bytes bytes, Plan& plan) const {
  Phase& phase = plan.phases[plan.phase_count++];
  phase = {.algorithm = algorithm(request.kind, dimension),
           .kind = kind,
           .members = members(request, dimension),
           .dimension = dimension,
           .bytes = bytes,
           .step_ns = system_.endpoint_delay_ns,
           .in_group = false,
           .queues = LaneUse::kAny};
  return phase.algorithm->bytes_after(kind, phase.members.count, bytes);
}

Members CollectivePlanner::members(const CollectiveRequest& request, std::size_t dimension) const {
  if (flat(request.kind)) return {nullptr, 0, 1, topology_.npus(), request.npu};
  const std::int32_t coordinate = topology_.coordinate(request.npu, dimension);
  const std::int32_t stride = topology_.stride(dimension);
  return {.listed = nullptr,
          .base = request.npu - coordinate * stride,
          .stride = stride,
          .count = topology_.dimensions()[dimension].npus,
          .me = coordinate};
}

}  // namespace astra
