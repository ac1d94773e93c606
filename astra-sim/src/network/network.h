#pragma once

#include <memory>
#include <string>

#include "engine/event_queue.h"
#include "engine/recorder.h"
#include "network/pipe_ends.h"
#include "network/topology.h"

namespace astra {

/// What a network works with; what is referred to outlives the network.
struct NetworkParts {
  const Topology& topology;
  EventQueue& queue;
  Recorder& recorder;
  PipeEnds pipe;  ///< to the process that simulates network 'pipe'; handed over
};

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

  /// What to call a link of the recorder's spans, such as "dim 0: NPU 1 -> NPU 2".
  [[nodiscard]] virtual std::string link_name(std::uint32_t link) const = 0;
};

/// Make the network model called `name`; throws std::invalid_argument when there is none of that name.
///
/// A new model is one file that implements Network and one line in network_registry.cc.
[[nodiscard]] std::unique_ptr<Network> make_network(const std::string& name, NetworkParts parts);

}  // namespace astra
