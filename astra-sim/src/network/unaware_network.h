#pragma once

#include <string>
#include <vector>

#include "network/network.h"

namespace astra {

/// The congestion-unaware network: hops * latency + bytes / bandwidth, and messages never meet.
///
/// With several dimensions only the lowest one in which the two addresses differ is charged.
class UnawareNetwork final : public Network {
 public:
  /// Make the network of a topology on the simulation's queue.
  explicit UnawareNetwork(const NetworkParts& parts);

  void send(NpuId source, NpuId destination, Bytes bytes, Callback landed) override;
  [[nodiscard]] std::string link_name(std::uint32_t link) const override;

 private:
  [[nodiscard]] Time delay_ns(NpuId source, NpuId destination, Bytes bytes) const;

  const Topology& topology_;
  EventQueue& queue_;
  Recorder& recorder_;
  std::vector<double> bytes_per_ns_;
};

}  // namespace astra
