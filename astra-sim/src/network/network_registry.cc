#include <stdexcept>
#include <utility>

#include "network/aware_network.h"
#include "network/network.h"
#include "network/pipe_network.h"
#include "network/unaware_network.h"

namespace astra {

std::unique_ptr<Network> make_network(const std::string& name, NetworkParts parts) {
  if (name == "unaware") return std::make_unique<UnawareNetwork>(parts);
  if (name == "aware") return std::make_unique<AwareNetwork>(parts);
  if (name == "pipe") return std::make_unique<PipeNetwork>(std::move(parts));
  throw std::invalid_argument("'" + name + "' is not a network backend; use 'unaware' or 'aware'");
}

}  // namespace astra
