#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "memory/memory.h"

namespace astra {

/// Memories shared by several NPUs, each serving one request at a time in order of arrival.
///
/// PER_NODE has one server per node, MEMORY_POOL a single one. Each PIM channel of a server computes one
/// thing at a time, too, in order of arrival and whatever the server and the other channels do.
class SharedMemory final : public Memory, private EventHandler {
 public:
  /// Make one server per node named in `spec.nodes` (empty: one server); queue and clocks must outlive it.
  SharedMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks);

  void access(NpuId npu, Bytes bytes, Callback done) override;
  void compute(NpuId npu, std::int32_t channel, Time duration_ns, Callback done) override;

 private:
  struct Request {
    NpuId npu;
    Time service_ns;
    Callback done;
  };

  void handle(std::uint64_t argument) override;
  [[nodiscard]] std::size_t node_of(NpuId npu) const;
  void enqueue(std::size_t queue, const Request& request);
  void start(std::size_t queue);

  MemorySpec spec_;
  EventQueue& queue_;
  NpuClocks& clocks_;
  std::size_t nodes_ = 1;
  std::vector<std::deque<Request>>
      queues_;  // of servers, then of channels; the front request is being served
};

}  // namespace astra
