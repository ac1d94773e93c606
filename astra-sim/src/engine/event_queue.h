#pragma once

#include <cstdint>
#include <vector>

#include "engine/event_handler.h"
#include "engine/types.h"

namespace astra {

/// The one clock of a simulation: events ordered by time, then by insertion.
///
/// Events added for the current time run in the same round, after those already there.
class EventQueue {
 public:
  /// Current time in ns.
  [[nodiscard]] Time now() const { return now_; }

  /// Number of events run so far.
  [[nodiscard]] std::uint64_t events_run() const { return events_run_; }

  /// True when no event is left.
  [[nodiscard]] bool empty() const { return heap_.empty(); }

  /// Time of the earliest event in ns; the queue must not be empty.
  [[nodiscard]] Time next_time() const { return heap_.front().at; }

  /// Wake `callback` at time `at` (ns, not before now).
  void schedule(Time at, Callback callback) { schedule(at, callback, reserve()); }

  /// The same with a place reserved earlier: among events of one time it stands where it would have stood
  /// then.
  void schedule(Time at, Callback callback, std::uint64_t place);

  /// Reserve the next place in the order of insertion, for an event whose time is not known yet.
  [[nodiscard]] std::uint64_t reserve() { return next_sequence_++; }

  /// Take the earliest event, move the clock to it and run it.
  void run_next();

  /// Move the clock forward to `at` (ns) without running anything.
  void move_to(Time at) { now_ = at; }

 private:
  struct Entry {
    Time at;
    std::uint64_t sequence;
    Callback callback;

    [[nodiscard]] bool before(const Entry& other) const {
      return at != other.at ? at < other.at : sequence < other.sequence;
    }
  };

  [[nodiscard]] Entry take_first();

  std::vector<Entry> heap_;  // 4-ary: the children of i are 4i+1 .. 4i+4
  Time now_ = 0;
  std::uint64_t next_sequence_ = 0;
  std::uint64_t events_run_ = 0;
};

}  // namespace astra
