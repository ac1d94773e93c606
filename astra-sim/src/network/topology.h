#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/types.h"
#include "network/wiring.h"

namespace astra {

/// One dimension of the network as configured.
struct Dimension {
  std::shared_ptr<const Wiring> wiring;
  std::int32_t npus = 1;
  double bandwidth_gbps = 0.0;  ///< GB/s where 1 GB is 2^30 bytes
  double latency_ns = 0.0;      ///< per hop
};

/// Addresses of the NPUs: number = a0 + n0 * (a1 + n1 * (a2 + ...)).
class Topology {
 public:
  /// Lay out the NPUs of the given dimensions, the first varying fastest.
  explicit Topology(std::vector<Dimension> dimensions);

  /// The dimensions, in order.
  [[nodiscard]] const std::vector<Dimension>& dimensions() const { return dimensions_; }
  /// Number of dimensions.
  [[nodiscard]] std::size_t rank() const { return dimensions_.size(); }
  /// Number of NPUs.
  [[nodiscard]] std::int32_t npus() const { return npus_; }
  /// Coordinate of an NPU in a dimension.
  [[nodiscard]] std::int32_t coordinate(NpuId npu, std::size_t dimension) const {
    return coordinates_[static_cast<std::size_t>(npu) * rank() + dimension];
  }
  /// Distance in NPU numbers between neighbours of a dimension.
  [[nodiscard]] std::int32_t stride(std::size_t dimension) const { return strides_[dimension]; }

 private:
  std::vector<Dimension> dimensions_;
  std::int32_t npus_ = 1;
  std::vector<std::int32_t> strides_;
  std::vector<std::int32_t> coordinates_;
};

}  // namespace astra
