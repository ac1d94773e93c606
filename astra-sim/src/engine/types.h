#pragma once

#include <cstdint>
#include <stdexcept>

namespace astra {

/// Simulated time in integer nanoseconds; one cycle of the reports is one nanosecond.
using Time = std::int64_t;

/// The latest time that the clock can show: 146 years.
inline constexpr Time kLastNs = Time{1} << 62;

/// Cut a computed delay to whole ns. Throws std::range_error for what is no delay, or more than 36 years:
/// an absurd size, bandwidth or latency must not wrap the clock.
[[nodiscard]] inline Time cut_to_ns(double delay_ns) {
  constexpr auto kLongest = static_cast<double>(Time{1} << 60);
  if (!(delay_ns >= 0 && delay_ns < kLongest)) {
    throw std::range_error(
        "a delay of more than 2^60 ns (36 years); check sizes, bandwidths, latencies and peak-perf");
  }
  return static_cast<Time>(delay_ns);
}

/// A time that never comes.
inline constexpr Time kForever = INT64_MAX;

/// Number of an NPU in the network, from 0; dimension 0 varies fastest.
using NpuId = std::int32_t;

/// Amount of data in bytes.
using Bytes = std::int64_t;

/// Serial number of a submission; grows by one with every submit and is never reused.
using TicketNumber = std::uint64_t;

}  // namespace astra
