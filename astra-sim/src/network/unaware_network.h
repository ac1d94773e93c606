#pragma once

#include <vector>

#include "network/network.h"

namespace astra {

/// The congestion-unaware network: hops * latency + bytes / bandwidth, and messages never meet.
///
/// With several dimensions only the lowest one in which the two addresses differ is charged.
class UnawareNetwork final : public Network {
 public:
  /// Make the network of a topology on the simulation's queue; both must outlive it.
  UnawareNetwork(const Topology& topology, EventQueue& queue);

  void send(NpuId source, NpuId destination, Bytes bytes, Callback landed) override;

 private:
  [[nodiscard]] Time delay_ns(NpuId source, NpuId destination, Bytes bytes) const;

  const Topology& topology_;
  EventQueue& queue_;
  std::vector<double> bytes_per_ns_;
};

}  // namespace astra
