#pragma once

#include <ns3/event-id.h>
#include <ns3/nstime.h>

#include <cstdint>
#include <deque>

#include "protocol.h"

namespace astra_ns3 {

/// Runs ns-3 in steps: to a limit, or to the next landing.
///
/// ns-3 counts picoseconds, the other side nanoseconds. A landing counts for the nanosecond at or after it,
/// and ns-3 stops at exactly that nanosecond, so that whatever the landing causes may start there.
class Clock {
 public:
  /// Largest time in ns that ns-3 can stop at; an advance to more runs until the next landing.
  static constexpr std::int64_t kLastNs = INT64_MAX / 1000 - 1;

  /// A time in ns as ns-3 has it.
  [[nodiscard]] static ns3::Time from_ns(std::int64_t ns) { return ns3::PicoSeconds(ns * 1000); }

  /// Where the clock stands in ns: always a whole number of them between two advances.
  [[nodiscard]] static std::int64_t now_ns();

  /// The next landing not later than `limit_ns`, or the limit.
  [[nodiscard]] Reply advance(std::int64_t limit_ns);

  /// A message has landed now; called by the network while ns-3 runs.
  void landed(std::int64_t id);

 private:
  void stop_at(std::int64_t time_ns);
  void settle();

  std::deque<Reply> landings_;  // of the nanosecond at which the clock stands
  ns3::EventId stop_;
  bool settling_ = false;
};

}  // namespace astra_ns3
