#pragma once

#include <cstdint>

namespace astra {

/// Simulated time in integer nanoseconds; one cycle of the reports is one nanosecond.
using Time = std::int64_t;

/// A time that never comes.
inline constexpr Time kForever = INT64_MAX;

/// Number of an NPU in the network, from 0; dimension 0 varies fastest.
using NpuId = std::int32_t;

/// Amount of data in bytes.
using Bytes = std::int64_t;

/// Serial number of a submission; grows by one with every submit and is never reused.
using TicketNumber = std::uint64_t;

}  // namespace astra
