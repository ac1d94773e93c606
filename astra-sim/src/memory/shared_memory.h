#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "memory/memory.h"

namespace astra {

/// Memories shared by several NPUs, each serving one request at a time in order of arrival.
///
/// PER_NODE has one server per node, MEMORY_POOL a single one.
class SharedMemory final : public Memory, private EventHandler {
 public:
  /// Make one server per node named in `spec.nodes` (empty: one server); queue and clocks must outlive it.
  SharedMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks);

  void access(NpuId npu, Bytes bytes, Callback done) override;

 private:
  struct Request {
    NpuId npu;
    Bytes bytes;
    Callback done;
  };

  void handle(std::uint64_t argument) override;
  void start(std::size_t server);

  MemorySpec spec_;
  EventQueue& queue_;
  NpuClocks& clocks_;
  std::vector<std::deque<Request>> servers_;  // the front request is being served
};

}  // namespace astra
