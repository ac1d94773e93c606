#pragma once

#include <memory>
#include <string>

#include "engine/event_queue.h"
#include "engine/recorder.h"
#include "network/topology.h"

namespace astra {

/// What a network works with; all of it outlives the network.
struct NetworkParts {
  const Topology& topology;
  EventQueue& queue;
  Recorder& recorder;
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

  /// What to call a link of the recorder's spans, such as "dim 0: NPU 1 -> NPU 2".
  [[nodiscard]] virtual std::string link_name(std::uint32_t link) const = 0;
};

/// Make the network model called `name`; throws std::invalid_argument when there is none of that name.
///
/// A new model is one file that implements Network and one line in network_registry.cc.
[[nodiscard]] std::unique_ptr<Network> make_network(const std::string& name, const NetworkParts& parts);

}  // namespace astra
