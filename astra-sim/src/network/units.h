#pragma once

namespace astra {

/// Bytes per ns of a network bandwidth in GB/s, where 1 GB is 2^30 bytes.
[[nodiscard]] constexpr double bytes_per_ns(double bandwidth_gbps) {
  constexpr double kBytesPerGb = 1024.0 * 1024.0 * 1024.0;
  constexpr double kNsPerSecond = 1e9;
  return bandwidth_gbps * kBytesPerGb / kNsPerSecond;
}

}  // namespace astra
