#include "engine/npu_clock.h"

namespace astra {

void NpuClock::schedule(Time at, Callback callback) {
  const std::uint32_t link = new_link(callback);
  const std::size_t found = find(at);
  if (found == ticks_.size()) {
    ticks_.push_back({at, link, link});
    queue_.schedule(at, {this, 0});
    return;
  }
  links_[ticks_[found].last].next = link;
  ticks_[found].last = link;
}

void NpuClock::handle(std::uint64_t /*argument*/) {
  const std::size_t tick = find(queue_.now());  // stays put: ticks are only appended while it runs
  std::uint32_t link = ticks_[tick].first;
  ++ticks_run_;
  while (link != kNone) {
    ++callbacks_run_;
    const Callback callback = links_[link].callback;
    callback();
    const std::uint32_t done = link;
    link = links_[done].next;  // read after the callback, which may have appended
    links_[done].next = free_links_;
    free_links_ = done;
  }
  ticks_[tick] = ticks_.back();
  ticks_.pop_back();
}

std::size_t NpuClock::find(Time at) const {
  std::size_t index = 0;
  while (index < ticks_.size() && ticks_[index].at != at) ++index;
  return index;
}

std::uint32_t NpuClock::new_link(Callback callback) {
  if (free_links_ == kNone) {
    links_.push_back({callback, kNone});
    return static_cast<std::uint32_t>(links_.size() - 1);
  }
  const std::uint32_t link = free_links_;
  free_links_ = links_[link].next;
  links_[link] = {callback, kNone};
  return link;
}

}  // namespace astra
