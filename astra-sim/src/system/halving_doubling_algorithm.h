#pragma once

#include "system/stepwise_algorithm.h"

namespace astra {

/// Recursive halving and doubling on n = 2^L NPUs: partners at distances 1, 2, 4, ... exchange D/2, D/4, ...
/// (reduce-scatter), or at n/2, ..., 1 exchange D, 2D, ... (all-gather); an all-reduce does both, 2L steps.
class HalvingDoublingAlgorithm final : public StepwiseAlgorithm {
 public:
  void check(CollectiveKind kind, std::int32_t members, bool in_group) const override;

 protected:
  [[nodiscard]] std::int32_t sends(const Phase& phase) const override;
  [[nodiscard]] Step step(const Phase& phase, const Lane& lane, std::int32_t index) const override;
  [[nodiscard]] Cycle cycle(const Phase& phase) const override;
};

}  // namespace astra
