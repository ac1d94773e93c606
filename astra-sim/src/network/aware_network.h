#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/pool.h"
#include "network/network.h"

namespace astra {

/// The congestion-aware network: whole messages, stored and forwarded, first come first served on every link.
///
/// A message crosses the dimensions in ascending order. Every ring, switch and full mesh of every dimension
/// has directed links of its own: both ways round a ring (the shorter one is taken, with a tie the ascending
/// one), up and down at a switch, one for each ordered pair of a full mesh. A link that takes a message is
/// busy for bytes / bandwidth; the message is at the other end after latency + bytes / bandwidth.
class AwareNetwork final : public Network, private EventHandler {
 public:
  /// Make the network of a topology on the simulation's queue.
  explicit AwareNetwork(const NetworkParts& parts);

  void send(NpuId source, NpuId destination, Bytes bytes, Callback landed) override;
  [[nodiscard]] std::string link_name(std::uint32_t link) const override;

 private:
  using Handle = std::uint32_t;
  using LinkId = std::uint32_t;
  static constexpr Handle kNone = UINT32_MAX;

  struct Flight {
    NpuId source = 0;
    NpuId at = 0;  // where it is, or, inside a device, where it will come out
    NpuId destination = 0;
    Bytes bytes = 0;
    Callback landed;
    std::size_t dimension = 0;
    std::int32_t device = 0;  // of the dimension's wiring, as in Place
    Handle next = kNone;      // behind it in the link's queue
  };
  struct Link {
    Handle first = kNone;  // waiting messages
    Handle last = kNone;
    bool busy = false;
  };

  void handle(std::uint64_t argument) override;
  void forward(Handle flight);
  [[nodiscard]] LinkId step(Flight& flight) const;
  [[nodiscard]] NpuId neighbour(NpuId npu, std::size_t dimension, std::int32_t coordinate) const;
  void enter(LinkId link, Handle flight);
  void occupy(LinkId link, Handle flight);
  void free(LinkId link);

  const Topology& topology_;
  EventQueue& queue_;
  Recorder& recorder_;
  std::vector<double> bytes_per_ns_;       // per dimension
  std::vector<LinkId> first_link_;         // per dimension
  std::vector<std::size_t> dimension_of_;  // per link
  std::vector<Link> links_;
  Pool<Flight> flights_;
};

}  // namespace astra
