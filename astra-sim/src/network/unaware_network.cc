#include "network/unaware_network.h"

#include "network/units.h"

namespace astra {
UnawareNetwork::UnawareNetwork(const NetworkParts& parts)
    : topology_(parts.topology), queue_(parts.queue), recorder_(parts.recorder) {
  for (const Dimension& dimension : topology_.dimensions()) {
    bytes_per_ns_.push_back(bytes_per_ns(dimension.bandwidth_gbps));
  }
}

void UnawareNetwork::send(NpuId source, NpuId destination, Bytes bytes, Callback landed) {
  const Time end = queue_.now() + delay_ns(source, destination, bytes);
  const auto link = static_cast<std::uint32_t>(source) * static_cast<std::uint32_t>(topology_.npus()) +
                    static_cast<std::uint32_t>(destination);
  recorder_.transfer({link, source, destination, bytes, queue_.now(), end});
  queue_.schedule(end, landed);
}

std::string UnawareNetwork::link_name(std::uint32_t link) const {
  const auto npus = static_cast<std::uint32_t>(topology_.npus());
  return "NPU " + std::to_string(link / npus) + " -> NPU " + std::to_string(link % npus);
}

Time UnawareNetwork::delay_ns(NpuId source, NpuId destination, Bytes bytes) const {
  for (std::size_t d = 0; d < topology_.rank(); ++d) {
    const std::int32_t from = topology_.coordinate(source, d);
    const std::int32_t to = topology_.coordinate(destination, d);
    if (from == to) continue;
    const Dimension& dimension = topology_.dimensions()[d];
    const double latency = dimension.wiring->hops(from, to, dimension.npus) * dimension.latency_ns;
    return cut_to_ns(latency + static_cast<double>(bytes) / bytes_per_ns_[d]);
  }
  return 0;
}

}  // namespace astra
