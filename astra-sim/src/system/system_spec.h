#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/types.h"

namespace astra {

/// The collectives that are simulated; the numbers are Chakra's.
enum class CollectiveKind : std::uint8_t {
  kAllReduce = 0,
  kAllGather = 2,
  kBroadcast = 5,
  kAllToAll = 6,
  kReduceScatter = 7
};

/// Number of collectives that can be configured: all but the replayed broadcast.
inline constexpr std::size_t kCollectiveKinds = 4;

/// Position of a configurable collective among the kCollectiveKinds.
[[nodiscard]] constexpr std::size_t kind_index(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kAllGather:
      return 1;
    case CollectiveKind::kReduceScatter:
      return 2;
    case CollectiveKind::kAllToAll:
      return 3;
    default:
      return 0;
  }
}

/// Names of the algorithms of one collective, one per logical dimension.
using AlgorithmNames = std::vector<std::string>;

/// How the NPUs work, as configured.
struct SystemSpec {
  Time endpoint_delay_ns = 10;         ///< of a collective step, system-wide collectives
  std::int32_t active_chunks = 1;      ///< streams of a dimension in flight at once
  std::int32_t splits = 1;             ///< streams a collective is cut into
  bool local_bandwidth_aware = false;  ///< collective-optimization localBWAware
  double local_mem_bw_gbps = 0.0;      ///< GB/s (1e9); 0: not configured
  double peak_tflops = 0.0;            ///< 0: not configured
  bool roofline = false;               ///< compute nodes take their time from num_ops and tensor_size
  bool replay_only = false;            ///< every node takes its recorded duration
  std::int32_t queues_per_dimension = 1;
  bool rendezvous = false;  ///< a message waits until its receive has been posted
  std::array<AlgorithmNames, kCollectiveKinds> algorithms;
  std::array<std::int32_t, kCollectiveKinds> custom_of_kind = {-1, -1, -1,
                                                               -1};  ///< index of a custom collective
  std::map<std::int64_t, std::int32_t> custom_of_node;               ///< by node id, before that of the kind

  /// Index of the custom collective that a node runs; -1: a named algorithm.
  [[nodiscard]] std::int32_t custom(CollectiveKind kind, std::int64_t node_id) const {
    const auto found = custom_of_node.find(node_id);
    return found != custom_of_node.end() ? found->second : custom_of_kind[kind_index(kind)];
  }
};

/// Delay of a collective step inside a group smaller than the system, whatever endpoint-delay says.
inline constexpr Time kGroupStepNs = 10;

}  // namespace astra
