#include "system/lane_allocator.h"

#include <algorithm>

namespace astra {
namespace {

// The next of `count` numbers that go round, after `turn`.
std::uint16_t take(std::uint16_t& turn, std::uint16_t count) {
  const std::uint16_t taken = turn;
  turn = static_cast<std::uint16_t>((turn + 1) % count);
  return taken;
}

}  // namespace

LaneAllocator::LaneAllocator(std::int32_t npus, std::size_t dimensions, std::int32_t queues)
    : dimensions_(dimensions),
      queues_(static_cast<std::uint16_t>(queues)),
      turns_(static_cast<std::size_t>(npus) * dimensions) {}

// With several queues the upper half of them runs anticlockwise.
Lane LaneAllocator::next(NpuId npu, const Phase& phase, CollectiveKind collective) {
  Turns& turns = turns_[static_cast<std::size_t>(npu) * dimensions_ + phase.dimension];
  const auto half = static_cast<std::uint16_t>(queues_ / 2);
  Lane lane;
  std::uint16_t queue = 0;
  switch (phase.queues) {
    case LaneUse::kAny:
      queue = take(turns.any, queues_);
      lane.clockwise = queues_ == 1 || queue < half;
      break;
    case LaneUse::kLowerHalf:
      queue = take(turns.lower, std::max<std::uint16_t>(half, 1));
      break;
    case LaneUse::kUpperHalf:
      queue =
          static_cast<std::uint16_t>(half + take(turns.upper, static_cast<std::uint16_t>(queues_ - half)));
      lane.clockwise = false;
      break;
  }
  lane.queue = static_cast<std::uint16_t>(phase.dimension * queues_ + queue);
  if (!phase.algorithm->takes_turns()) return lane;
  bool& tree = turns.second_tree[kind_index(collective)];
  lane.second_tree = tree;
  tree = !tree;
  return lane;
}

}  // namespace astra
