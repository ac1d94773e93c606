#include "network/ring_wiring.h"

#include <algorithm>
#include <cstdlib>

namespace astra {
namespace {

constexpr std::uint32_t kUp = 0;
constexpr std::uint32_t kDown = 1;

std::int32_t neighbour(std::int32_t coordinate, std::uint32_t link, std::int32_t npus) {
  return (coordinate + (link == kUp ? 1 : npus - 1)) % npus;
}

}  // namespace

std::int32_t RingWiring::hops(std::int32_t from, std::int32_t to, std::int32_t npus) const {
  const std::int32_t distance = std::abs(from - to);
  return std::min(distance, npus - distance);
}

std::size_t RingWiring::links_per_npu(std::int32_t /*npus*/) const {
  return 2;
}

Hop RingWiring::hop(Place at, std::int32_t to, std::int32_t npus) const {
  const std::int32_t upwards = (to - at.coordinate + npus) % npus;
  const std::uint32_t link = 2 * upwards <= npus ? kUp : kDown;
  return {at.coordinate, link, {neighbour(at.coordinate, link, npus), 0}};
}

std::string RingWiring::link_name(std::int32_t owner, std::uint32_t link, std::int32_t npus,
                                  const std::function<std::string(std::int32_t)>& name) const {
  return name(owner) + " -> " + name(neighbour(owner, link, npus));
}

}  // namespace astra
