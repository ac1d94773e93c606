#include <stdexcept>

#include "memory/memory.h"
#include "memory/private_memory.h"
#include "memory/shared_memory.h"

namespace astra {

std::unique_ptr<Memory> make_memory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks) {
  if (spec.type == "NO_MEMORY_EXPANSION") return nullptr;
  if (spec.type == "PER_NPU_MEMORY_EXPANSION") return std::make_unique<PrivateMemory>(spec, queue, clocks);
  if (spec.type == "PER_NODE_MEMORY_EXPANSION" || spec.type == "MEMORY_POOL") {
    return std::make_unique<SharedMemory>(spec, queue, clocks);
  }
  throw std::invalid_argument("not supported yet: memory type '" + spec.type + "'");
}

Time access_ns(const MemorySpeed& speed, Bytes bytes) {
  return speed.latency_ns + cut_to_ns(static_cast<double>(bytes) / speed.bandwidth_gbps);
}

}  // namespace astra
