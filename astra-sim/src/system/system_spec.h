#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
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
  AlgorithmNames all_reduce;
  AlgorithmNames all_gather;
  AlgorithmNames reduce_scatter;
  AlgorithmNames all_to_all;

  /// The algorithm names configured for a collective.
  [[nodiscard]] const AlgorithmNames& algorithms(CollectiveKind kind) const {
    switch (kind) {
      case CollectiveKind::kAllGather:
        return all_gather;
      case CollectiveKind::kReduceScatter:
        return reduce_scatter;
      case CollectiveKind::kAllToAll:
        return all_to_all;
      default:
        return all_reduce;
    }
  }
};

/// Delay of a collective step inside a group smaller than the system, whatever endpoint-delay says.
inline constexpr Time kGroupStepNs = 10;

}  // namespace astra
