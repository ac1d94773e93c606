#pragma once

#include <memory>
#include <vector>

#include "engine/pool.h"
#include "system/algorithm.h"
#include "workload/graph_template.h"

namespace astra {

/// A collective written as execution graphs: graph r says what the NPU of rank r sends, receives and
/// computes.
///
/// Peers in the graphs are ranks. All nodes without unfinished parents are under way at once, in ascending
/// id; message sizes are those of the graphs, whatever the size of the collective.
class CustomCollective final : public Algorithm {
 public:
  /// Take the compiled graphs (one per rank) and their numbers; throws std::invalid_argument for node types
  /// other than send, receive and compute.
  CustomCollective(std::shared_ptr<const GraphTemplate> graphs, std::vector<Time> durations_ns,
                   std::vector<Bytes> sizes);

  void check(CollectiveKind kind, std::int32_t members, bool in_group) const override;
  [[nodiscard]] Bytes bytes_after(CollectiveKind kind, std::int32_t members, Bytes bytes) const override;
  [[nodiscard]] bool makes_reductions(CollectiveKind /*kind*/) const override { return false; }
  void start(StreamContext& stream) override;
  void on_bus_trip_end(StreamContext& stream) override;
  void on_message(StreamContext& stream) override;
  void on_node_end(StreamContext& stream, std::uint32_t node) override;

 private:
  struct Run {
    std::vector<std::uint32_t> parents_left;
    std::size_t nodes_left = 0;
  };

  void issue(StreamContext& stream, const NpuGraph& graph, std::uint32_t node) const;

  std::shared_ptr<const GraphTemplate> structure_;
  std::vector<Time> durations_ns_;
  std::vector<Bytes> sizes_;
  Pool<Run> runs_;
};

}  // namespace astra
