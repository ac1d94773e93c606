#pragma once

#include <memory>
#include <string>

#include "engine/event_queue.h"
#include "network/pipe_ends.h"
#include "network/topology.h"

namespace astra {

/// Moves messages between NPUs; knows neither tags nor receivers, only when data lands.
class Network {
 public:
  Network() = default;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  virtual ~Network() = default;

  /// Start moving `bytes` from `source` to `destination` now; wake `landed` when all of it has arrived.
  virtual void send(NpuId source, NpuId destination, Bytes bytes, Callback landed) = 0;

  /// Bring a clock of its own forward to `limit` (ns) or to its next landing, whichever is first; landings
  /// become events. Called before the engine's clock moves that far. Networks without a clock have nothing to
  /// do.
  virtual void catch_up(Time /*limit*/) {}
};

/// Make the network model called `name`; throws std::invalid_argument when there is none of that name.
///
/// Only 'pipe' uses the ends of pipes. A new model is one file that implements Network and one line in
/// network_registry.cc.
[[nodiscard]] std::unique_ptr<Network> make_network(const std::string& name, const Topology& topology,
                                                    EventQueue& queue, PipeEnds ends);

}  // namespace astra
