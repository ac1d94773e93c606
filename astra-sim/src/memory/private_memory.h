#pragma once

#include "memory/memory.h"

namespace astra {

/// A memory of its own for every NPU: requests never wait for each other.
class PrivateMemory final : public Memory {
 public:
  /// Make the memories of all NPUs; queue and clocks must outlive them.
  PrivateMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks);

  void access(NpuId npu, Bytes bytes, Callback done) override;

 private:
  MemorySpec spec_;
  EventQueue& queue_;
  NpuClocks& clocks_;
};

}  // namespace astra
