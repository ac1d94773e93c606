#include "system/halving_doubling_algorithm.h"

#include <bit>
#include <stdexcept>

namespace astra {
namespace {

std::int32_t levels(const Phase& phase) {
  return std::countr_zero(static_cast<std::uint32_t>(phase.members.count));
}

}  // namespace

void HalvingDoublingAlgorithm::check(CollectiveKind kind, std::int32_t members, bool /*in_group*/) const {
  if (kind == CollectiveKind::kAllToAll) {
    throw std::invalid_argument("halvingDoubling has no all-to-all; use ring or direct");
  }
  if (!std::has_single_bit(static_cast<std::uint32_t>(members))) {
    throw std::invalid_argument("halvingDoubling needs a power of two of NPUs, not " +
                                std::to_string(members) + "; use ring or direct");
  }
}

std::int32_t HalvingDoublingAlgorithm::sends(const Phase& phase) const {
  return phase.kind == CollectiveKind::kAllReduce ? 2 * levels(phase) : levels(phase);
}

// Halving is of the halved value, cut each time, and doubling begins from what it has come to.
StepwiseAlgorithm::Step HalvingDoublingAlgorithm::step(const Phase& phase, const Lane& /*lane*/,
                                                       std::int32_t index) const {
  const std::int32_t rounds = levels(phase);
  const std::int32_t half = phase.members.count / 2;
  std::int32_t offset = 0;
  Bytes bytes = 0;
  if (phase.kind == CollectiveKind::kAllGather) {
    offset = half >> index;
    bytes = phase.bytes << index;
  } else if (index < rounds) {
    offset = 1 << index;
    bytes = phase.bytes >> (index + 1);
  } else {
    offset = half >> (index - rounds);
    bytes = (phase.bytes >> (rounds + 1)) * 2 << (index - rounds);
  }
  const std::int32_t partner = phase.members.me ^ offset;
  return {partner, partner, bytes};
}

StepwiseAlgorithm::Cycle HalvingDoublingAlgorithm::cycle(const Phase& phase) const {
  return {1, levels(phase) - 1};
}

}  // namespace astra
