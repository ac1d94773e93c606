#pragma once

#include "network/wiring.h"

namespace astra {

/// A ring with a link each way between neighbours; messages go the shorter way, with a tie upwards.
class RingWiring final : public Wiring {
 public:
  [[nodiscard]] std::int32_t hops(std::int32_t from, std::int32_t to, std::int32_t npus) const override;
  [[nodiscard]] std::size_t links_per_npu(std::int32_t npus) const override;
  [[nodiscard]] Hop hop(Place at, std::int32_t to, std::int32_t npus) const override;
  [[nodiscard]] std::string link_name(std::int32_t owner, std::uint32_t link, std::int32_t npus,
                                      const std::function<std::string(std::int32_t)>& name) const override;
};

}  // namespace astra
