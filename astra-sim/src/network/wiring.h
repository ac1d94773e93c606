#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace astra {

/// Where a message is within one dimension: at the NPU of a coordinate, or inside a device on the way to it.
struct Place {
  std::int32_t coordinate = 0;
  std::int32_t device = 0;  ///< 0: at the NPU itself; other values are the wiring's own
};

/// One directed link of a dimension, named by the coordinate it belongs to, and where it leads.
struct Hop {
  std::int32_t owner = 0;
  std::uint32_t link = 0;  ///< 0 .. links_per_npu - 1
  Place next;
};

/// How the NPUs of one dimension are wired: how far apart they are, and which links a message takes.
///
/// A new wiring is one file that implements this and one line in wiring_registry.cc.
class Wiring {
 public:
  Wiring() = default;
  Wiring(const Wiring&) = delete;
  Wiring& operator=(const Wiring&) = delete;
  virtual ~Wiring() = default;

  /// Hops between two different coordinates of a dimension of `npus` NPUs (congestion-unaware network).
  [[nodiscard]] virtual std::int32_t hops(std::int32_t from, std::int32_t to, std::int32_t npus) const = 0;

  /// Number of directed links that belong to each coordinate (congestion-aware network).
  [[nodiscard]] virtual std::size_t links_per_npu(std::int32_t npus) const = 0;

  /// The next link of a message on its way to coordinate `to`, where it is not yet.
  [[nodiscard]] virtual Hop hop(Place at, std::int32_t to, std::int32_t npus) const = 0;

  /// What to call a link, such as "NPU 1 -> NPU 2"; `name` gives the name of the NPU at a coordinate.
  [[nodiscard]] virtual std::string link_name(std::int32_t owner, std::uint32_t link, std::int32_t npus,
                                              const std::function<std::string(std::int32_t)>& name) const = 0;
};

/// The wiring that a network configuration calls `name`; throws std::invalid_argument if there is none.
[[nodiscard]] std::shared_ptr<const Wiring> find_wiring(const std::string& name);

/// The names that find_wiring knows.
[[nodiscard]] std::vector<std::string> wiring_names();

}  // namespace astra
