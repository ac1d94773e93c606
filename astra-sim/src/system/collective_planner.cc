#include "system/collective_planner.h"

#include <stdexcept>
#include <string>

namespace astra {
namespace {

bool involved(const CollectiveRequest& request, std::size_t dimension) {
  return (request.dimensions >> dimension & 1U) != 0;
}

// A group uses the configured algorithm if there is one for all dimensions, else the ring.
std::string group_algorithm(const AlgorithmNames& names) {
  return names.size() == 1 ? names.front() : "ring";
}

}  // namespace

CollectivePlanner::CollectivePlanner(const SystemSpec& system, const Topology& topology)
    : system_(system), topology_(topology) {}

void CollectivePlanner::check_algorithms(CollectiveKind kind, bool in_group) const {
  const AlgorithmNames& names = system_.algorithms(kind);
  if (in_group) {
    static_cast<void>(find_algorithm(group_algorithm(names)));
    return;
  }
  for (const std::string& name : names) static_cast<void>(find_algorithm(name));
  if (names.size() != topology_.rank()) {
    throw std::invalid_argument("the system configuration names " + std::to_string(names.size()) +
                                " algorithms for this collective, the network has " +
                                std::to_string(topology_.rank()) + " dimensions");
  }
}

void CollectivePlanner::plan(const CollectiveRequest& request, Plan& plan) const {
  plan.phase_count = 0;
  const Bytes chunk = cut(request, plan);
  if (request.in_group) {
    plan_group(request, chunk, plan);
  } else if (request.kind == CollectiveKind::kAllReduce && system_.local_bandwidth_aware) {
    plan_bandwidth_aware_all_reduce(request, chunk, plan);
  } else {
    plan_dimensions(request, chunk, plan);
  }
}

std::size_t CollectivePlanner::live_dimensions(std::uint32_t dimensions) const {
  std::size_t live = 0;
  for (std::size_t d = 0; d < topology_.rank(); ++d) {
    if (topology_.dimensions()[d].npus > 1 && (dimensions >> d & 1U) != 0) ++live;
  }
  return live;
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

void CollectivePlanner::plan_group(const CollectiveRequest& request, Bytes chunk, Plan& plan) const {
  if (request.group.count < 2) return;
  Phase& phase = plan.phases[plan.phase_count++];
  phase.algorithm = &find_algorithm(group_algorithm(system_.algorithms(request.kind)));
  phase.kind = request.kind;
  phase.members = request.group;
  phase.clockwise = true;
  phase.queue = 0;
  phase.bytes = chunk;
  phase.step_ns = kGroupStepNs;
  phase.in_group = true;
}

void CollectivePlanner::plan_dimensions(const CollectiveRequest& request, Bytes chunk, Plan& plan) const {
  const std::size_t rank = topology_.rank();
  Bytes bytes = chunk;
  for (std::size_t step = 0; step < rank; ++step) {
    const std::size_t d = request.kind == CollectiveKind::kAllGather ? rank - 1 - step : step;
    const std::int32_t npus = topology_.dimensions()[d].npus;
    if (npus < 2 || !involved(request, d)) continue;
    add_phase(request, request.kind, d, bytes, plan);
    if (request.kind == CollectiveKind::kAllGather) bytes *= npus;
    if (request.kind == CollectiveKind::kReduceScatter) bytes /= npus;
  }
}

// Reduce-scatter upwards, all-reduce in the last live dimension, all-gather back down (anticlockwise).
void CollectivePlanner::plan_bandwidth_aware_all_reduce(const CollectiveRequest& request, Bytes chunk,
                                                        Plan& plan) const {
  std::array<std::size_t, Plan::kMaxPhases> live{};
  std::size_t count = 0;
  for (std::size_t d = 0; d < topology_.rank(); ++d) {
    if (topology_.dimensions()[d].npus > 1 && involved(request, d)) live[count++] = d;
  }
  if (count == 0) return;
  Bytes bytes = chunk;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    add_phase(request, CollectiveKind::kReduceScatter, live[i], bytes, plan);
    bytes /= topology_.dimensions()[live[i]].npus;
  }
  add_phase(request, CollectiveKind::kAllReduce, live[count - 1], bytes, plan);
  for (std::size_t i = count - 1; i-- > 0;) {
    add_phase(request, CollectiveKind::kAllGather, live[i], bytes, plan);
    plan.phases[plan.phase_count - 1].clockwise = false;
    bytes *= topology_.dimensions()[live[i]].npus;
  }
}

void CollectivePlanner::add_phase(const CollectiveRequest& request, CollectiveKind kind,
                                  std::size_t dimension, Bytes bytes, Plan& plan) const {
  const std::int32_t coordinate = topology_.coordinate(request.npu, dimension);
  const std::int32_t stride = topology_.stride(dimension);
  Phase& phase = plan.phases[plan.phase_count++];
  phase.algorithm = &find_algorithm(system_.algorithms(request.kind)[dimension]);
  phase.kind = kind;
  phase.members = {.listed = nullptr,
                   .base = request.npu - coordinate * stride,
                   .stride = stride,
                   .count = topology_.dimensions()[dimension].npus,
                   .me = coordinate};
  phase.clockwise = true;
  phase.queue = static_cast<std::uint32_t>(dimension);
  phase.bytes = bytes;
  phase.step_ns = system_.endpoint_delay_ns;
  phase.in_group = false;
}

}  // namespace astra
