#pragma once

#include "system/stepwise_algorithm.h"

namespace astra {

/// Direct collectives: every NPU exchanges a message with each of the others, a window of them at a time.
///
/// All-reduce n-1 exchanges to reduce and, when these have arrived, n-1 to gather; the others n-1. The k-th
/// message of a round goes to the NPU k further and comes from the NPU k behind.
class DirectAlgorithm final : public StepwiseAlgorithm {
 public:
  /// `window` messages are in flight at once; 0: all.
  explicit DirectAlgorithm(std::int32_t window) : window_(window) {}

 protected:
  [[nodiscard]] std::int32_t sends(const Phase& phase) const override;
  [[nodiscard]] std::int32_t width(const Phase& phase) const override;
  [[nodiscard]] Step step(const Phase& phase, const Lane& lane, std::int32_t index) const override;
  [[nodiscard]] Cycle cycle(const Phase& phase) const override;
  [[nodiscard]] std::int32_t allowance(const Phase& phase, const Progress& progress) const override;

 private:
  std::int32_t window_;
};

}  // namespace astra
