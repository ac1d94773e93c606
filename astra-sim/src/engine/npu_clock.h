#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/event_queue.h"

namespace astra {

/// The events of one NPU: all its callbacks of one tick run together, at the position of the first.
///
/// Callbacks added for the tick that is running join the end of its list and run too.
class NpuClock final : public EventHandler {
 public:
  /// Make the clock of one NPU on top of the simulation's queue.
  explicit NpuClock(EventQueue& queue) : queue_(queue) {}

  /// Wake `callback` at time `at` (ns, not before now).
  void schedule(Time at, Callback callback);

  /// Run the list of the current tick; called by the queue.
  void handle(std::uint64_t argument) override;

  /// Number of ticks run so far, each one event of the queue.
  [[nodiscard]] std::uint64_t ticks_run() const { return ticks_run_; }

  /// Number of callbacks run so far.
  [[nodiscard]] std::uint64_t callbacks_run() const { return callbacks_run_; }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  struct Link {
    Callback callback;
    std::uint32_t next;
  };
  struct Tick {
    Time at;
    std::uint32_t first;
    std::uint32_t last;
  };

  [[nodiscard]] std::size_t find(Time at) const;
  [[nodiscard]] std::uint32_t new_link(Callback callback);

  EventQueue& queue_;
  std::vector<Tick> ticks_;  // few: one per time at which something of this NPU ends
  std::vector<Link> links_;
  std::uint32_t free_links_ = kNone;
  std::uint64_t ticks_run_ = 0;
  std::uint64_t callbacks_run_ = 0;
};

}  // namespace astra
