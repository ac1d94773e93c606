#include "memory/private_memory.h"

namespace astra {

PrivateMemory::PrivateMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks)
    : spec_(spec), queue_(queue), clocks_(clocks) {}

void PrivateMemory::access(NpuId npu, Bytes bytes, Callback done) {
  clocks_[static_cast<std::size_t>(npu)]->schedule(queue_.now() + access_ns(spec_.speed, bytes), done);
}

}  // namespace astra
