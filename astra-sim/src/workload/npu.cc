#include "workload/npu.h"

#include <algorithm>
#include <bit>

namespace astra {
namespace {

bool after(const ReadyNode& a, const ReadyNode& b) {
  return b.before(a);
}

}  // namespace

void Npu::add_ready(ReadyNode node, Unit unit) {
  if (walking_) {
    late_.emplace_back(node, unit);
  } else {
    push(node, static_cast<std::size_t>(unit));
  }
}

bool Npu::next(ReadyNode& node) {
  std::uint32_t candidates = waiting_ & ~busy_;
  if (candidates == 0) {
    walking_ = false;
    for (const auto& [late, unit] : late_) push(late, static_cast<std::size_t>(unit));
    late_.clear();
    return false;
  }
  auto best = static_cast<std::size_t>(std::countr_zero(candidates));
  for (candidates &= candidates - 1; candidates != 0; candidates &= candidates - 1) {
    const auto other = static_cast<std::size_t>(std::countr_zero(candidates));
    if (ready_[other].front().before(ready_[best].front())) best = other;
  }
  std::vector<ReadyNode>& heap = ready_[best];
  node = heap.front();
  std::pop_heap(heap.begin(), heap.end(), after);
  heap.pop_back();
  if (heap.empty()) waiting_ &= ~(1U << best);
  return true;
}

void Npu::push(ReadyNode node, std::size_t unit) {
  std::vector<ReadyNode>& heap = ready_[unit];
  heap.push_back(node);
  if (heap.size() > 1) std::push_heap(heap.begin(), heap.end(), after);
  waiting_ |= 1U << unit;
}

}  // namespace astra
