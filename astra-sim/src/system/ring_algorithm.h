#pragma once

#include "system/stepwise_algorithm.h"

namespace astra {

/// Ring collectives: each step hands a message to the next NPU of the ring and takes one from the previous.
///
/// All-reduce 2(n-1) steps of D/n, reduce-scatter n-1 of D/n, all-gather n-1 of D, all-to-all n(n-1)/2 of
/// D/n (modelled as relaying round the ring). Unaware cost of an all-reduce of one chunk:
/// step + 2(n-1) * (message + step) + (n-1) * reduction.
class RingAlgorithm final : public StepwiseAlgorithm {
 protected:
  [[nodiscard]] std::int32_t sends(const Phase& phase) const override;
  [[nodiscard]] Step step(const Phase& phase, const Lane& lane, std::int32_t index) const override;
  [[nodiscard]] Cycle cycle(const Phase& phase) const override;
};

/// Bytes of a message where all have the same: D for an all-gather, otherwise D/n.
[[nodiscard]] Bytes share_bytes(const Phase& phase);

}  // namespace astra
