#include "network/switch_wiring.h"

namespace astra {
namespace {

constexpr std::uint32_t kToSwitch = 0;
constexpr std::uint32_t kFromSwitch = 1;
constexpr std::int32_t kInSwitch = 1;

}  // namespace

std::int32_t SwitchWiring::hops(std::int32_t /*from*/, std::int32_t /*to*/, std::int32_t /*npus*/) const {
  return 2;
}

std::size_t SwitchWiring::links_per_npu(std::int32_t /*npus*/) const {
  return 2;
}

// Inside the switch a message counts as being at the coordinate where it will come out.
Hop SwitchWiring::hop(Place at, std::int32_t to, std::int32_t /*npus*/) const {
  if (at.device == kInSwitch) return {to, kFromSwitch, {to, 0}};
  return {at.coordinate, kToSwitch, {to, kInSwitch}};
}

std::string SwitchWiring::link_name(std::int32_t owner, std::uint32_t link, std::int32_t /*npus*/,
                                    const std::function<std::string(std::int32_t)>& name) const {
  return link == kToSwitch ? name(owner) + " -> switch" : "switch -> " + name(owner);
}

}  // namespace astra
