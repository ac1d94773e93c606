#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "network/topology.h"
#include "system/collective_planner.h"
#include "workload/graph_template.h"

namespace astra {

/// What the nodes of a graph may refer to.
struct Surroundings {
  const Topology& topology;
  const SystemSpec& system;
  const CollectivePlanner& planner;
  std::vector<std::int32_t> pim_channels;  ///< per memory; kAbsent: it does not exist (NO_MEMORY_EXPANSION)
};

/// Checks graphs and packs them into a template; throws std::invalid_argument naming the node at fault.
class TemplateBuilder {
 public:
  /// Prepare for graphs of the given system.
  explicit TemplateBuilder(Surroundings surroundings) : surroundings_(surroundings) {}

  /// Pack the graphs; graphs[i] will run on the i-th NPU of a submission.
  [[nodiscard]] std::shared_ptr<const GraphTemplate> build(const std::vector<std::vector<NodeSpec>>& graphs);

 private:
  void build_graph(const std::vector<NodeSpec>& nodes);
  [[nodiscard]] TemplateNode pack(const NodeSpec& spec);
  void pack_compute(const NodeSpec& spec, TemplateNode& node);
  void pack_memory(const NodeSpec& spec, TemplateNode& node) const;
  void pack_in_memory(const NodeSpec& spec, TemplateNode& node) const;
  void pack_message(const NodeSpec& spec, TemplateNode& node) const;
  void pack_collective(const NodeSpec& spec, TemplateNode& node);
  void pack_group(const NodeSpec& spec, TemplateNode& node);
  void pack_dimensions(const NodeSpec& spec, TemplateNode& node) const;
  void check_collective(const NodeSpec& spec, const TemplateNode& node) const;
  void note_all_gather(std::int32_t size_slot);
  void check_slots(const NodeSpec& spec, const TemplateNode& node);
  [[nodiscard]] std::uint32_t part_index(std::int64_t part);
  void link(const std::vector<NodeSpec>& nodes, const std::vector<std::size_t>& order, NpuGraph& graph);
  [[noreturn]] void fail(const NodeSpec& spec, const std::string& message) const;

  Surroundings surroundings_;
  std::shared_ptr<GraphTemplate> template_;
  std::size_t positions_ = 0;
  std::size_t position_ = 0;  // of the graph being built
  std::map<std::vector<std::int32_t>, std::int32_t> groups_;
  std::unordered_map<std::int64_t, std::uint32_t> parts_;
};

}  // namespace astra
