#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace astra_ns3 {

/// One cable: both directions have the bandwidth of their own.
struct Link {
  std::int32_t a = 0;
  std::int32_t b = 0;
  double bits_per_second = 0.0;
  double latency_ns = 0.0;
};

/// What lies between two nodes.
struct Path {
  double latency_ns = 0.0;       ///< of all links
  double narrowest_bps = 0.0;    ///< bits a second of the slowest link
  double seconds_per_bit = 0.0;  ///< on all links, one after another
};

/// NPUs 0 to npus-1, then switches, and the links between them, with shortest paths.
///
/// Paths have the fewest links. Among equally short ones a node prefers links that name it first, then the
/// order of the file; so the way between two nodes never changes.
class LinkMap {
 public:
  /// Read a topology file; throws std::runtime_error with file and line.
  [[nodiscard]] static LinkMap read(const std::string& file);

  /// Number of NPUs.
  [[nodiscard]] std::int32_t npus() const { return npus_; }
  /// Number of NPUs and switches.
  [[nodiscard]] std::int32_t nodes() const { return nodes_; }
  /// The links in the order of the file.
  [[nodiscard]] const std::vector<Link>& links() const { return links_; }

  /// Index of the link over which `node` sends what is meant for `npu`; -1: no path.
  [[nodiscard]] std::int32_t next_link(std::int32_t node, std::int32_t npu) const {
    return next_link_[static_cast<std::size_t>(npu) * static_cast<std::size_t>(nodes_) +
                      static_cast<std::size_t>(node)];
  }
  /// The path on which a node sends what is meant for an NPU; there must be one.
  [[nodiscard]] Path path(std::int32_t node, std::int32_t npu) const;
  /// The other end of a link.
  [[nodiscard]] std::int32_t across(std::int32_t link, std::int32_t node) const {
    const Link& cable = links_[static_cast<std::size_t>(link)];
    return cable.a == node ? cable.b : cable.a;
  }

 private:
  LinkMap() = default;

  void find_paths();

  std::int32_t npus_ = 0;
  std::int32_t nodes_ = 0;
  std::vector<Link> links_;
  std::vector<std::int32_t> next_link_;  // for each NPU: of each node
};

}  // namespace astra_ns3
