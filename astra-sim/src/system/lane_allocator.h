#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "system/algorithm.h"

namespace astra {

/// Hands out the queues of a dimension in turn, one turn for each NPU and kind of use.
class LaneAllocator {
 public:
  /// Serve `npus` NPUs with `queues` queues in each of `dimensions` dimensions.
  LaneAllocator(std::int32_t npus, std::size_t dimensions, std::int32_t queues);

  /// The lane of the next stream of an NPU that goes through `phase` of a `collective`.
  [[nodiscard]] Lane next(NpuId npu, const Phase& phase, CollectiveKind collective);

 private:
  struct Turns {
    std::uint16_t any = 0;
    std::uint16_t lower = 0;
    std::uint16_t upper = 0;
    std::array<bool, kCollectiveKinds> second_tree{};
  };

  std::size_t dimensions_;
  std::uint16_t queues_;
  std::vector<Turns> turns_;  // per NPU and dimension
};

}  // namespace astra
