#include "system/direct_algorithm.h"

#include <algorithm>

#include "system/ring_algorithm.h"

namespace astra {

std::int32_t DirectAlgorithm::sends(const Phase& phase) const {
  const std::int32_t others = phase.members.count - 1;
  return phase.kind == CollectiveKind::kAllReduce ? 2 * others : others;
}

std::int32_t DirectAlgorithm::width(const Phase& phase) const {
  const std::int32_t others = phase.members.count - 1;
  return window_ == 0 ? others : std::min(window_, others);
}

StepwiseAlgorithm::Step DirectAlgorithm::step(const Phase& phase, const Lane& lane,
                                              std::int32_t index) const {
  const std::int32_t distance = 1 + index % (phase.members.count - 1);
  return {ahead(phase, lane, distance), behind(phase, lane, distance), share_bytes(phase)};
}

StepwiseAlgorithm::Cycle DirectAlgorithm::cycle(const Phase& phase) const {
  const std::int32_t wide = width(phase);
  return {wide, phase.in_group ? wide * (phase.members.count - 1) : wide};
}

// Between the two halves of an all-reduce the NPU waits until it has got all that it has to reduce.
std::int32_t DirectAlgorithm::allowance(const Phase& phase, const Progress& progress) const {
  const std::int32_t others = phase.members.count - 1;
  if (phase.kind != CollectiveKind::kAllReduce || progress.sends_left != others) return 1;
  return progress.receives < others ? 0 : width(phase);
}

}  // namespace astra
