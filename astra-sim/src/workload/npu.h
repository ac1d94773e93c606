#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "workload/graph_template.h"

namespace astra {

/// Counts how long at least one of several overlapping activities was under way.
class BusyMeter {
 public:
  /// One more activity is under way from `now` (ns) on.
  void begin(Time now) {
    if (active_++ == 0) since_ = now;
  }
  /// One activity has ended.
  void end(Time now) {
    if (--active_ == 0) total_ += now - since_;
  }
  /// Busy time in ns of the activities that have ended.
  [[nodiscard]] Time total_ns() const { return total_; }

 private:
  std::int32_t active_ = 0;
  Time since_ = 0;
  Time total_ = 0;
};

/// Totals over the compute nodes that took their time from the roofline.
struct RooflineTotals {
  Time total_ns = 0;
  Time compute_bound_ns = 0;  ///< of nodes that the peak, not the memory, limits
  Bytes operations = 0;
  Bytes bytes = 0;

  /// Count one node.
  void add(Time duration_ns, Bytes node_operations, Bytes node_bytes, bool compute_bound) {
    total_ns += duration_ns;
    if (compute_bound) compute_bound_ns += duration_ns;
    operations += node_operations;
    bytes += node_bytes;
  }
};

/// A node that may be issued as soon as its unit is idle.
struct ReadyNode {
  TicketNumber ticket = 0;
  std::uint32_t node = 0;
  std::uint32_t run = 0;

  /// Order of issue: earlier tickets first, then ascending node id.
  [[nodiscard]] bool before(const ReadyNode& other) const {
    return ticket != other.ticket ? ticket < other.ticket : node < other.node;
  }
};

/// The state of one NPU: idle units, nodes ready for them, and statistics.
///
/// A walk issues, in order, the ready nodes whose unit is idle. Nodes that become ready during a walk
/// wait for the next one.
class Npu {
 public:
  /// Add a node whose parents have all finished.
  void add_ready(ReadyNode node, Unit unit);

  /// Begin a walk; `next` then hands out nodes until it returns false, which ends the walk.
  void begin_walk() { walking_ = true; }

  /// Take the next node of the walk whose unit is idle.
  [[nodiscard]] bool next(ReadyNode& node);

  /// The unit works on a node from now on.
  void occupy(Unit unit) { busy_ |= bit(unit) & ~bit(Unit::kNone); }

  /// The unit is idle again.
  void release(Unit unit) { busy_ &= ~bit(unit); }

  Time finish_ns = 0;       ///< when the last node so far finished
  Time compute_ns = 0;      ///< sum of the durations of finished compute nodes that are not CPU operations
  Time cpu_ns = 0;          ///< sum of the durations of finished CPU operations
  BusyMeter communication;  ///< collectives, sends, receives (from their posting)
  BusyMeter memory;         ///< loads and stores
  RooflineTotals roofline;
  std::uint64_t nodes_finished = 0;

 private:
  static constexpr std::uint32_t bit(Unit unit) { return 1U << static_cast<std::uint32_t>(unit); }

  void push(ReadyNode node, std::size_t unit);

  std::array<std::vector<ReadyNode>, kUnits> ready_;  // a heap per unit
  std::vector<std::pair<ReadyNode, Unit>> late_;      // became ready during the walk
  std::uint32_t waiting_ = 0;                         // bit per unit with ready nodes
  std::uint32_t busy_ = 0;                            // bit per unit
  bool walking_ = false;
};

}  // namespace astra
