#include "network/full_mesh_wiring.h"

namespace astra {

std::int32_t FullMeshWiring::hops(std::int32_t /*from*/, std::int32_t /*to*/, std::int32_t /*npus*/) const {
  return 1;
}

std::size_t FullMeshWiring::links_per_npu(std::int32_t npus) const {
  return static_cast<std::size_t>(npus);
}

Hop FullMeshWiring::hop(Place at, std::int32_t to, std::int32_t /*npus*/) const {
  return {at.coordinate, static_cast<std::uint32_t>(to), {to, 0}};
}

std::string FullMeshWiring::link_name(std::int32_t owner, std::uint32_t link, std::int32_t /*npus*/,
                                      const std::function<std::string(std::int32_t)>& name) const {
  return name(owner) + " -> " + name(static_cast<std::int32_t>(link));
}

}  // namespace astra
