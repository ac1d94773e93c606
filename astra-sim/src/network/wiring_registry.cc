#include <map>
#include <stdexcept>

#include "network/full_mesh_wiring.h"
#include "network/ring_wiring.h"
#include "network/switch_wiring.h"
#include "network/wiring.h"

namespace astra {
namespace {

using Maker = std::shared_ptr<const Wiring> (*)();

template <typename T>
std::shared_ptr<const Wiring> make() {
  return std::make_shared<const T>();
}

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> known = {
      {"FullyConnected", &make<FullMeshWiring>},
      {"Ring", &make<RingWiring>},
      {"Switch", &make<SwitchWiring>},
  };
  return known;
}

}  // namespace

std::shared_ptr<const Wiring> find_wiring(const std::string& name) {
  const auto found = makers().find(name);
  if (found == makers().end()) throw std::invalid_argument("'" + name + "' is not a topology");
  return found->second();
}

std::vector<std::string> wiring_names() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

}  // namespace astra
