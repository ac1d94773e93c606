#include "system/ring_algorithm.h"

namespace astra {

Bytes share_bytes(const Phase& phase) {
  return phase.kind == CollectiveKind::kAllGather ? phase.bytes : phase.bytes / phase.members.count;
}

std::int32_t RingAlgorithm::sends(const Phase& phase) const {
  const std::int32_t n = phase.members.count;
  switch (phase.kind) {
    case CollectiveKind::kAllReduce:
      return 2 * (n - 1);
    case CollectiveKind::kAllToAll:
      return n * (n - 1) / 2;
    default:
      return n - 1;
  }
}

StepwiseAlgorithm::Step RingAlgorithm::step(const Phase& phase, const Lane& lane,
                                            std::int32_t /*index*/) const {
  return {ahead(phase, lane, 1), behind(phase, lane, 1), share_bytes(phase)};
}

StepwiseAlgorithm::Cycle RingAlgorithm::cycle(const Phase& phase) const {
  return {1, phase.members.count - 1};
}

}  // namespace astra
