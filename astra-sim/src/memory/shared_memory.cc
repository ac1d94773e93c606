#include "memory/shared_memory.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace astra {

SharedMemory::SharedMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks)
    : spec_(spec), queue_(queue), clocks_(clocks) {
  std::int32_t last = 0;
  for (const std::int32_t node : spec_.nodes) last = std::max(last, node);
  nodes_ = static_cast<std::size_t>(last) + 1;
  queues_.resize(nodes_ * (1 + static_cast<std::size_t>(spec_.pim_channels)));
  if (!spec_.node_speeds.empty() && spec_.node_speeds.size() < nodes_) {
    throw std::invalid_argument("a memory has " + std::to_string(spec_.node_speeds.size()) + " speeds for " +
                                std::to_string(nodes_) + " nodes");
  }
}

void SharedMemory::access(NpuId npu, Bytes bytes, Callback done) {
  const std::size_t server = node_of(npu);
  const MemorySpeed& speed = spec_.node_speeds.empty() ? spec_.speed : spec_.node_speeds[server];
  enqueue(server, {npu, access_ns(speed, bytes), done});
}

void SharedMemory::compute(NpuId npu, std::int32_t channel, Time duration_ns, Callback done) {
  const std::size_t before = static_cast<std::size_t>(spec_.pim_channels) * node_of(npu);
  enqueue(nodes_ + before + static_cast<std::size_t>(channel), {npu, duration_ns, done});
}

std::size_t SharedMemory::node_of(NpuId npu) const {
  return spec_.nodes.empty() ? 0 : static_cast<std::size_t>(spec_.nodes[static_cast<std::size_t>(npu)]);
}

void SharedMemory::enqueue(std::size_t queue, const Request& request) {
  queues_[queue].push_back(request);
  if (queues_[queue].size() == 1) start(queue);
}

void SharedMemory::handle(std::uint64_t argument) {
  const auto queue = static_cast<std::size_t>(argument);
  const Callback done = queues_[queue].front().done;
  done();  // before the next request starts; what it asks for now queues up behind
  queues_[queue].pop_front();
  if (!queues_[queue].empty()) start(queue);
}

void SharedMemory::start(std::size_t queue) {
  const Request& request = queues_[queue].front();
  NpuClock& clock = *clocks_[static_cast<std::size_t>(request.npu)];
  clock.schedule(queue_.now() + request.service_ns, {this, queue});
}

}  // namespace astra
