#include "network/topology.h"

#include <utility>

namespace astra {

Topology::Topology(std::vector<Dimension> dimensions) : dimensions_(std::move(dimensions)) {
  for (const Dimension& dimension : dimensions_) {
    strides_.push_back(npus_);
    npus_ *= dimension.npus;
  }
  coordinates_.reserve(static_cast<std::size_t>(npus_) * rank());
  for (NpuId npu = 0; npu < npus_; ++npu) {
    for (std::size_t d = 0; d < rank(); ++d) coordinates_.push_back(npu / strides_[d] % dimensions_[d].npus);
  }
}

}  // namespace astra
