#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/types.h"
#include "system/system_spec.h"

namespace astra {

/// Node types; the numbers are Chakra's.
enum class NodeKind : std::uint8_t {
  kInvalid = 0,
  kMemLoad = 2,
  kMemStore = 3,
  kCompute = 4,
  kSend = 5,
  kReceive = 6,
  kCollective = 7
};

/// The parts of an NPU of which each works on one node at a time; kNone: any number of nodes.
enum class Unit : std::uint8_t { kCpu, kGpu, kComm, kCopy, kNone };
inline constexpr std::size_t kUnits = 5;

/// No slot, group or peer.
inline constexpr std::int32_t kAbsent = -1;

/// A node of an execution graph as described by the caller, before it is checked.
struct NodeSpec {
  std::int64_t id = 0;
  std::string name;
  NodeKind kind = NodeKind::kCompute;
  CollectiveKind collective = CollectiveKind::kAllReduce;
  bool has_collective = false;
  std::vector<std::int64_t> parents;  ///< data and control dependencies
  std::int32_t duration_slot = kAbsent;
  std::int32_t size_slot = kAbsent;
  std::int32_t ops_slot = kAbsent;
  std::vector<std::int32_t> group;        ///< positions in ring order; empty: every NPU of the system
  std::vector<bool> involved_dimensions;  ///< empty: all
  std::int32_t peer = kAbsent;            ///< position
  std::int64_t tag = 0;
  bool is_cpu_op = false;
  bool copy_engine = false;
  std::int32_t memory = 0;
  std::int32_t pim_channel = kAbsent;  ///< a compute node that runs in this channel of its memory
  std::int64_t part = 0;
};

/// What the executor needs of a node, packed.
struct TemplateNode {
  NodeKind kind = NodeKind::kCompute;
  Unit unit = Unit::kGpu;
  CollectiveKind collective = CollectiveKind::kAllReduce;
  bool replayed = false;  ///< takes its duration, whatever it is
  bool copy_engine = false;
  std::int32_t duration_slot = kAbsent;
  std::int32_t size_slot = kAbsent;
  std::int32_t ops_slot = kAbsent;
  std::int32_t peer = kAbsent;
  std::int32_t group = kAbsent;    ///< index of the template's groups; kAbsent: every NPU of the system
  std::int32_t position = 0;       ///< of this NPU in the group
  std::int32_t custom = kAbsent;   ///< index of a custom collective; kAbsent: the configured algorithms
  std::uint32_t dimensions = ~0U;  ///< bit d: dimension d is involved
  std::uint32_t memory = 0;
  std::int32_t pim_channel = kAbsent;
  std::uint32_t part = 0;  ///< index of the template's parts
  std::uint32_t first_child = 0;
  std::uint32_t last_child = 0;  ///< one past
  std::uint64_t tag = 0;
};

/// The graph of one NPU: nodes in ascending id, which is the order of issue.
struct NpuGraph {
  std::vector<TemplateNode> nodes;
  std::vector<std::uint32_t> children;       ///< indices into nodes, node after node
  std::vector<std::uint32_t> parent_counts;  ///< per node
  std::vector<std::uint32_t> roots;          ///< nodes without parents
  std::vector<std::int64_t> ids;             ///< per node, for messages
  std::vector<std::string> names;            ///< per node, for messages
};

/// An all-gather whose size must be checked at submission.
struct AllGatherSlot {
  std::int32_t size_slot = kAbsent;
  std::size_t position = 0;
  std::size_t node = 0;  ///< index into the graph's nodes
};

/// The structure of a submission, compiled once: one graph per NPU, groups and parts.
struct GraphTemplate {
  std::vector<NpuGraph> graphs;
  std::vector<std::vector<std::int32_t>> groups;  ///< members as positions, in ring order
  std::vector<std::uint32_t> group_begin;  ///< where a group starts when all members are laid end to end
  std::uint32_t group_members = 0;         ///< members of all groups together
  std::vector<std::int64_t> parts;         ///< the caller's numbers
  std::vector<std::uint32_t> part_sizes;   ///< nodes of each part
  std::vector<AllGatherSlot> all_gathers;  ///< one per size slot
  std::int32_t durations_needed = 0;       ///< length that a submission's durations must have
  std::int32_t sizes_needed = 0;
  bool needs_all_npus = false;  ///< has a collective of every NPU of the system
};

/// "NPU position 1, node 7 (attn)": how messages name a node.
[[nodiscard]] std::string describe(std::size_t position, std::int64_t id, const std::string& name);

}  // namespace astra
