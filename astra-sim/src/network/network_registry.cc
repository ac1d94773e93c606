#include <stdexcept>
#include <utility>

#include "network/network.h"
#include "network/pipe_network.h"
#include "network/unaware_network.h"

namespace astra {

std::unique_ptr<Network> make_network(const std::string& name, const Topology& topology, EventQueue& queue,
                                      PipeEnds ends) {
  if (name == "unaware") return std::make_unique<UnawareNetwork>(topology, queue);
  if (name == "pipe") return std::make_unique<PipeNetwork>(std::move(ends), queue);
  throw std::invalid_argument("not supported yet: network backend '" + name + "'; use 'unaware'");
}

}  // namespace astra
