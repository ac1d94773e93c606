#include <stdexcept>

#include "memory/memory.h"
#include "memory/private_memory.h"
#include "memory/shared_memory.h"

namespace astra {

std::unique_ptr<Memory> make_memory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks) {
  const bool shared = spec.type == "PER_NODE_MEMORY_EXPANSION" || spec.type == "MEMORY_POOL";
  if (spec.pim_channels > 0 && !shared) {
    throw std::invalid_argument("a memory of type '" + spec.type + "' has no PIM channels");
  }
  if (spec.type == "NO_MEMORY_EXPANSION") return nullptr;
  if (spec.type == "PER_NPU_MEMORY_EXPANSION") return std::make_unique<PrivateMemory>(spec, queue, clocks);
  if (shared) return std::make_unique<SharedMemory>(spec, queue, clocks);
  throw std::invalid_argument("not supported yet: memory type '" + spec.type + "'");
}

void Memory::compute(NpuId /*npu*/, std::int32_t /*channel*/, Time /*duration_ns*/, Callback /*done*/) {
  throw std::logic_error("a memory without PIM channels was asked to compute");
}

Time access_ns(const MemorySpeed& speed, Bytes bytes) {
  return speed.latency_ns + cut_to_ns(static_cast<double>(bytes) / speed.bandwidth_gbps);
}

}  // namespace astra
