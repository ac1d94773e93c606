#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/event_queue.h"
#include "engine/npu_clock.h"
#include "engine/types.h"

namespace astra {

/// How fast one device answers.
struct MemorySpeed {
  Time latency_ns = 0;          ///< per request
  double bandwidth_gbps = 0.0;  ///< GB/s where 1 GB is 1e9 bytes
};

/// One memory that loads and stores can address, as configured.
struct MemorySpec {
  std::string type;  ///< PER_NPU_MEMORY_EXPANSION, PER_NODE_..., MEMORY_POOL, NO_...
  MemorySpeed speed;
  std::vector<std::int32_t> nodes;       ///< PER_NODE: node of each NPU
  std::vector<MemorySpeed> node_speeds;  ///< PER_NODE: by node; empty: all have `speed`
  std::int32_t pim_channels = 0;         ///< channels of each server that compute
};

/// A memory outside the NPUs: serves loads and stores, which cost the same.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  virtual ~Memory() = default;

  /// Move `bytes` to or from `npu`; wake `done` on that NPU's clock when finished.
  virtual void access(NpuId npu, Bytes bytes, Callback done) = 0;

  /// Compute for `npu` in one of the memory's channels for `duration_ns`, when that channel is free; then
  /// wake `done` on that NPU's clock. Only memories with PIM channels are asked.
  virtual void compute(NpuId npu, std::int32_t channel, Time duration_ns, Callback done);
};

/// The clocks of all NPUs, by NPU number.
using NpuClocks = std::vector<std::unique_ptr<NpuClock>>;

/// Make a memory of the configured type; throws std::invalid_argument when there is no such type.
///
/// A new type is one file that implements Memory and one line in memory_registry.cc. Returns nothing for
/// NO_MEMORY_EXPANSION.
[[nodiscard]] std::unique_ptr<Memory> make_memory(const MemorySpec& spec, EventQueue& queue,
                                                  NpuClocks& clocks);

/// Time of one request alone in ns: latency + bytes / bandwidth, the quotient cut to an integer.
[[nodiscard]] Time access_ns(const MemorySpeed& speed, Bytes bytes);

}  // namespace astra
