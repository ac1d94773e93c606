#include "clock.h"

#include <ns3/simulator.h>

namespace astra_ns3 {

std::int64_t Clock::now_ns() {
  return (ns3::Simulator::Now().GetPicoSeconds() + 999) / 1000;
}

Reply Clock::advance(std::int64_t limit_ns) {
  if (landings_.empty()) {
    settling_ = false;
    if (limit_ns <= kLastNs) stop_at(limit_ns);
    ns3::Simulator::Run();
  }
  if (landings_.empty()) return {limit_ns, -1};
  const Reply first = landings_.front();
  landings_.pop_front();
  return first;
}

void Clock::landed(std::int64_t id) {
  landings_.push_back({now_ns(), id});
  if (landings_.size() > 1 || settling_) return;
  stop_.Remove();
  stop_at(now_ns());
}

void Clock::stop_at(std::int64_t time_ns) {
  stop_ = ns3::Simulator::Schedule(from_ns(time_ns) - ns3::Simulator::Now(), &Clock::settle, this);
}

// Everything else that happens at this very time was scheduled earlier, if not inserted earlier: let it go
// first.
void Clock::settle() {
  settling_ = true;
  ns3::Simulator::ScheduleNow([] { ns3::Simulator::Stop(); });
}

}  // namespace astra_ns3
