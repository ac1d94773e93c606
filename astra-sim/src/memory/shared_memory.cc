#include "memory/shared_memory.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace astra {

SharedMemory::SharedMemory(const MemorySpec& spec, EventQueue& queue, NpuClocks& clocks)
    : spec_(spec), queue_(queue), clocks_(clocks) {
  std::int32_t last = 0;
  for (const std::int32_t node : spec_.nodes) last = std::max(last, node);
  servers_.resize(static_cast<std::size_t>(last) + 1);
  if (!spec_.node_speeds.empty() && spec_.node_speeds.size() < servers_.size()) {
    throw std::invalid_argument("a memory has " + std::to_string(spec_.node_speeds.size()) + " speeds for " +
                                std::to_string(servers_.size()) + " nodes");
  }
}

void SharedMemory::access(NpuId npu, Bytes bytes, Callback done) {
  const std::size_t server =
      spec_.nodes.empty() ? 0 : static_cast<std::size_t>(spec_.nodes[static_cast<std::size_t>(npu)]);
  servers_[server].push_back({npu, bytes, done});
  if (servers_[server].size() == 1) start(server);
}

void SharedMemory::handle(std::uint64_t argument) {
  const auto server = static_cast<std::size_t>(argument);
  const Callback done = servers_[server].front().done;
  done();  // before the next request starts; what it asks for now queues up behind
  servers_[server].pop_front();
  if (!servers_[server].empty()) start(server);
}

void SharedMemory::start(std::size_t server) {
  const Request& request = servers_[server].front();
  NpuClock& clock = *clocks_[static_cast<std::size_t>(request.npu)];
  const MemorySpeed& speed = spec_.node_speeds.empty() ? spec_.speed : spec_.node_speeds[server];
  clock.schedule(queue_.now() + access_ns(speed, request.bytes), {this, server});
}

}  // namespace astra
