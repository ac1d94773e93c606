#include "workload/template_builder.h"

#include <algorithm>
#include <stdexcept>

#include "workload/dependency_cycle.h"

namespace astra {
namespace {

constexpr std::int64_t kTags = 500'000'000;

bool accesses_memory(const NodeSpec& spec) {
  return spec.kind == NodeKind::kMemLoad || spec.kind == NodeKind::kMemStore;
}

Unit unit_of(const NodeSpec& spec) {
  if (spec.pim_channel != kAbsent) return Unit::kNone;  // its channel alone queues it
  if (spec.is_cpu_op) return Unit::kCpu;
  if (spec.kind == NodeKind::kCompute) return Unit::kGpu;
  if (spec.kind == NodeKind::kReceive) return Unit::kNone;
  if (spec.kind == NodeKind::kSend && spec.copy_engine) return Unit::kCopy;
  if (accesses_memory(spec) && spec.copy_engine) return Unit::kNone;  // the memory alone queues it
  return Unit::kComm;
}

}  // namespace

std::string describe(std::size_t position, std::int64_t id, const std::string& name) {
  return "NPU " + std::to_string(position) + ", node " + std::to_string(id) +
         (name.empty() ? "" : " (" + name + ")");
}

std::shared_ptr<const GraphTemplate> TemplateBuilder::build(
    const std::vector<std::vector<NodeSpec>>& graphs) {
  template_ = std::make_shared<GraphTemplate>();
  groups_.clear();
  parts_.clear();
  positions_ = graphs.size();
  for (position_ = 0; position_ < positions_; ++position_) build_graph(graphs[position_]);
  if (template_->parts.empty()) throw std::invalid_argument("the graphs have no nodes");
  if (template_->needs_all_npus && static_cast<std::int32_t>(positions_) != surroundings_.topology.npus()) {
    throw std::invalid_argument("a collective of every NPU of the system (group = ()) needs " +
                                std::to_string(surroundings_.topology.npus()) + " graphs, one per NPU; got " +
                                std::to_string(positions_));
  }
  return template_;
}

void TemplateBuilder::build_graph(const std::vector<NodeSpec>& nodes) {
  NpuGraph& graph = template_->graphs.emplace_back();
  std::vector<std::size_t> order(nodes.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return nodes[a].id < nodes[b].id; });
  graph.nodes.reserve(nodes.size());
  for (const std::size_t index : order) {
    const NodeSpec& spec = nodes[index];
    if (!graph.ids.empty() && graph.ids.back() == spec.id) fail(spec, "the id is used twice");
    graph.nodes.push_back(pack(spec));
    graph.ids.push_back(spec.id);
    graph.names.push_back(spec.name);
    ++template_->part_sizes[graph.nodes.back().part];
  }
  link(nodes, order, graph);
}

void TemplateBuilder::link(const std::vector<NodeSpec>& nodes, const std::vector<std::size_t>& order,
                           NpuGraph& graph) {
  const std::size_t count = nodes.size();
  graph.parent_counts.assign(count, 0);
  std::vector<std::vector<std::uint32_t>> children(count);
  for (std::uint32_t child = 0; child < count; ++child) {
    const NodeSpec& spec = nodes[order[child]];
    std::vector<std::int64_t> parents = spec.parents;
    std::sort(parents.begin(), parents.end());
    parents.erase(std::unique(parents.begin(), parents.end()), parents.end());
    for (const std::int64_t parent : parents) {
      const auto found = std::lower_bound(graph.ids.begin(), graph.ids.end(), parent);
      if (found == graph.ids.end() || *found != parent) {
        fail(spec, "depends on node " + std::to_string(parent) + ", which does not exist");
      }
      children[static_cast<std::size_t>(found - graph.ids.begin())].push_back(child);
      ++graph.parent_counts[child];
    }
  }
  for (std::uint32_t parent = 0; parent < count; ++parent) {
    graph.nodes[parent].first_child = static_cast<std::uint32_t>(graph.children.size());
    graph.children.insert(graph.children.end(), children[parent].begin(), children[parent].end());
    graph.nodes[parent].last_child = static_cast<std::uint32_t>(graph.children.size());
    if (graph.parent_counts[parent] == 0) graph.roots.push_back(parent);
  }
  const std::string cycle = describe_cycle(graph);
  if (!cycle.empty()) {
    throw std::invalid_argument("NPU " + std::to_string(position_) + ": dependency cycle: " + cycle);
  }
}

TemplateNode TemplateBuilder::pack(const NodeSpec& spec) {
  TemplateNode node;
  node.kind = spec.kind;
  node.unit = unit_of(spec);
  node.duration_slot = spec.duration_slot;
  node.size_slot = spec.size_slot;
  node.ops_slot = spec.ops_slot;
  node.tag = static_cast<std::uint64_t>(spec.tag % kTags);
  node.part = part_index(spec.part);
  if (spec.tag < 0) fail(spec, "tag must not be negative");
  if (spec.copy_engine && spec.kind != NodeKind::kSend && !accesses_memory(spec)) {
    fail(spec, "only a send, a load or a store can use the copy engine");
  }
  if (spec.is_cpu_op && spec.kind != NodeKind::kCompute && !surroundings_.system.replay_only) {
    fail(spec, "is_cpu_op is allowed on compute nodes only");
  }
  if (spec.pim_channel != kAbsent && (spec.kind != NodeKind::kCompute || spec.is_cpu_op)) {
    fail(spec, "only a compute node of the NPU can run in a PIM channel");
  }
  if (surroundings_.system.replay_only) {
    node.replayed = true;
  } else if (spec.pim_channel != kAbsent) {
    pack_in_memory(spec, node);
  } else if (spec.kind == NodeKind::kCompute) {
    pack_compute(spec, node);
  } else if (spec.kind == NodeKind::kMemLoad || spec.kind == NodeKind::kMemStore) {
    pack_memory(spec, node);
  } else if (spec.kind == NodeKind::kSend || spec.kind == NodeKind::kReceive) {
    pack_message(spec, node);
  } else if (spec.kind == NodeKind::kCollective) {
    pack_collective(spec, node);
  }
  check_slots(spec, node);
  return node;
}

void TemplateBuilder::pack_compute(const NodeSpec& spec, TemplateNode& node) {
  node.replayed = !surroundings_.system.roofline || spec.is_cpu_op;
  if (node.replayed) return;
  if (spec.ops_slot == kAbsent) fail(spec, "roofline needs ops_slot (num_ops)");
  if (surroundings_.system.peak_tflops <= 0)
    fail(spec, "roofline needs peak-perf in the system configuration");
  if (surroundings_.system.local_mem_bw_gbps <= 0) {
    fail(spec, "roofline needs local-mem-bw in the system configuration");
  }
}

void TemplateBuilder::pack_memory(const NodeSpec& spec, TemplateNode& node) const {
  const std::vector<std::int32_t>& memories = surroundings_.pim_channels;
  if (memories.empty()) fail(spec, "memory node, but no memory is configured (NO_MEMORY_EXPANSION)");
  if (spec.memory < 0 || static_cast<std::size_t>(spec.memory) >= memories.size()) {
    fail(spec, "addresses memory " + std::to_string(spec.memory) + "; " + std::to_string(memories.size()) +
                   " are configured");
  }
  node.memory = static_cast<std::uint32_t>(spec.memory);
  if (memories[node.memory] == kAbsent) fail(spec, "memory node, but the memory type is NO_MEMORY_EXPANSION");
}

void TemplateBuilder::pack_in_memory(const NodeSpec& spec, TemplateNode& node) const {
  pack_memory(spec, node);
  const std::int32_t channels = surroundings_.pim_channels[node.memory];
  if (spec.pim_channel < 0 || spec.pim_channel >= channels) {
    fail(spec, "runs in PIM channel " + std::to_string(spec.pim_channel) + "; memory " +
                   std::to_string(spec.memory) + " has " + std::to_string(channels));
  }
  node.pim_channel = spec.pim_channel;
}

void TemplateBuilder::pack_message(const NodeSpec& spec, TemplateNode& node) const {
  if (spec.peer < 0 || static_cast<std::size_t>(spec.peer) >= positions_) {
    fail(spec, "peer " + std::to_string(spec.peer) + " is not one of the " + std::to_string(positions_) +
                   " NPUs of the template");
  }
  if (static_cast<std::size_t>(spec.peer) == position_)
    fail(spec, "the NPU sends to or receives from itself");
  node.peer = spec.peer;
  node.copy_engine = spec.copy_engine;
}

void TemplateBuilder::pack_collective(const NodeSpec& spec, TemplateNode& node) {
  if (!spec.has_collective) fail(spec, "a collective node needs its collective");
  node.collective = spec.collective;
  if (spec.collective == CollectiveKind::kBroadcast) {
    node.replayed = true;
    return;
  }
  if (spec.collective == CollectiveKind::kAllGather) note_all_gather(spec.size_slot);
  if (!spec.group.empty()) pack_group(spec, node);
  node.custom = surroundings_.system.custom(spec.collective, spec.id);
  if (node.group == kAbsent) {
    template_->needs_all_npus = true;
    if (spec.group.empty()) pack_dimensions(spec, node);
  }
  check_collective(spec, node);
}

void TemplateBuilder::pack_dimensions(const NodeSpec& spec, TemplateNode& node) const {
  const std::vector<bool>& involved = spec.involved_dimensions;
  if (involved.empty()) return;
  const std::size_t dimensions = surroundings_.planner.logical_dimensions(spec.collective);
  if (involved.size() < dimensions) {
    fail(spec, "involved_dim has " + std::to_string(involved.size()) + " entries; give one for each of the " +
                   std::to_string(dimensions) + " dimensions");
  }
  node.dimensions = 0;
  for (std::size_t d = 0; d < dimensions; ++d) {
    if (involved[d]) node.dimensions |= 1U << d;
  }
}

void TemplateBuilder::check_collective(const NodeSpec& spec, const TemplateNode& node) const {
  CollectiveRequest request;
  request.kind = spec.collective;
  request.dimensions = node.dimensions;
  request.custom = node.custom;
  request.in_group = node.group != kAbsent;
  if (request.in_group) request.group.count = static_cast<std::int32_t>(spec.group.size());
  try {
    surroundings_.planner.check(request);
  } catch (const std::invalid_argument& error) {
    fail(spec, error.what());
  }
}

// A group of all NPUs behaves as no group.
void TemplateBuilder::pack_group(const NodeSpec& spec, TemplateNode& node) {
  std::vector<bool> seen(positions_, false);
  for (std::size_t i = 0; i < spec.group.size(); ++i) {
    const std::int32_t member = spec.group[i];
    if (member < 0 || static_cast<std::size_t>(member) >= positions_) {
      fail(spec, "group member " + std::to_string(member) + " is not one of the " +
                     std::to_string(positions_) + " NPUs of the template");
    }
    const auto index = static_cast<std::size_t>(member);
    if (seen[index]) fail(spec, "group member " + std::to_string(member) + " is listed twice");
    seen[index] = true;
    if (index == position_) node.position = static_cast<std::int32_t>(i);
  }
  if (!seen[position_]) fail(spec, "the NPU is not a member of the collective's group");
  if (spec.group.size() == static_cast<std::size_t>(surroundings_.topology.npus())) return;
  if (spec.group.size() < 2) fail(spec, "a collective in a group of one NPU would never complete");
  const auto next = static_cast<std::int32_t>(template_->groups.size());
  const auto [found, added] = groups_.emplace(spec.group, next);
  if (added) {
    template_->groups.push_back(spec.group);
    template_->group_begin.push_back(template_->group_members);
    template_->group_members += static_cast<std::uint32_t>(spec.group.size());
  }
  node.group = found->second;
}

void TemplateBuilder::check_slots(const NodeSpec& spec, const TemplateNode& node) {
  const bool skipped = node.kind == NodeKind::kInvalid && !node.replayed;
  const bool timed = node.replayed || node.pim_channel != kAbsent;
  if (timed && spec.duration_slot == kAbsent) fail(spec, "duration_slot is missing");
  if (!timed && !skipped && spec.size_slot == kAbsent) fail(spec, "size_slot is missing");
  for (const std::int32_t slot : {spec.duration_slot, spec.size_slot, spec.ops_slot}) {
    if (slot < kAbsent) fail(spec, "a slot must not be negative");
  }
  template_->durations_needed = std::max(template_->durations_needed, spec.duration_slot + 1);
  template_->sizes_needed = std::max({template_->sizes_needed, spec.size_slot + 1, spec.ops_slot + 1});
}

void TemplateBuilder::note_all_gather(std::int32_t size_slot) {
  if (size_slot < 0) return;  // reported as missing later
  for (const AllGatherSlot& known : template_->all_gathers) {
    if (known.size_slot == size_slot) return;
  }
  template_->all_gathers.push_back({size_slot, position_, template_->graphs.back().nodes.size()});
}

std::uint32_t TemplateBuilder::part_index(std::int64_t part) {
  const auto next = static_cast<std::uint32_t>(template_->parts.size());
  const auto [found, added] = parts_.emplace(part, next);
  if (added) {
    template_->parts.push_back(part);
    template_->part_sizes.push_back(0);
  }
  return found->second;
}

void TemplateBuilder::fail(const NodeSpec& spec, const std::string& message) const {
  throw std::invalid_argument(describe(position_, spec.id, spec.name) + ": " + message);
}

}  // namespace astra
