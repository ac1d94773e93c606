#include "engine/event_queue.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>

namespace astra {

void EventQueue::schedule(Time at, Callback callback, std::uint64_t place) {
  if (at < now_ || at > kLastNs) {
    throw std::range_error("the clock would pass 2^62 ns (146 years); check durations and sizes");
  }
  const Entry entry{at, place, callback};
  std::size_t hole = heap_.size();
  heap_.push_back(entry);
  while (hole > 0) {
    const std::size_t parent = (hole - 1) / 4;
    if (!entry.before(heap_[parent])) break;
    heap_[hole] = heap_[parent];
    hole = parent;
  }
  heap_[hole] = entry;
}

void EventQueue::run_next() {
  const Entry entry = take_first();
  now_ = entry.at;
  ++events_run_;
  entry.callback();
}

EventQueue::Entry EventQueue::take_first() {
  const Entry first = heap_.front();
  const Entry last = heap_.back();
  heap_.pop_back();
  const std::size_t size = heap_.size();
  if (size == 0) return first;
  std::size_t hole = 0;
  for (std::size_t child = 1; child < size; child = 4 * hole + 1) {
    std::size_t least = child;
    const std::size_t end = std::min(child + 4, size);
    for (std::size_t other = child + 1; other < end; ++other) {
      if (heap_[other].before(heap_[least])) least = other;
    }
    if (!heap_[least].before(last)) break;
    heap_[hole] = heap_[least];
    hole = least;
  }
  heap_[hole] = last;
  return first;
}

}  // namespace astra
