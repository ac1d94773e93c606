#include "system/custom_collective.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace astra {

CustomCollective::CustomCollective(std::shared_ptr<const GraphTemplate> graphs,
                                   std::vector<Time> durations_ns, std::vector<Bytes> sizes)
    : structure_(std::move(graphs)), durations_ns_(std::move(durations_ns)), sizes_(std::move(sizes)) {
  for (std::size_t rank = 0; rank < structure_->graphs.size(); ++rank) {
    const NpuGraph& graph = structure_->graphs[rank];
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
      const NodeKind kind = graph.nodes[i].kind;
      if (kind == NodeKind::kSend || kind == NodeKind::kReceive || kind == NodeKind::kCompute) continue;
      throw std::invalid_argument(describe(rank, graph.ids[i], graph.names[i]) +
                                  ": only sends, receives and compute nodes are allowed");
    }
  }
}

void CustomCollective::check(CollectiveKind /*kind*/, std::int32_t members, bool /*in_group*/) const {
  if (structure_->graphs.size() != static_cast<std::size_t>(members)) {
    throw std::invalid_argument("the custom collective has " + std::to_string(structure_->graphs.size()) +
                                " ranks, but " + std::to_string(members) + " NPUs take part");
  }
  for (std::size_t rank = 0; rank < structure_->graphs.size(); ++rank) {
    if (structure_->graphs[rank].nodes.empty()) {
      throw std::invalid_argument("the custom collective has no nodes for rank " + std::to_string(rank) +
                                  " and would never complete there");
    }
  }
}

Bytes CustomCollective::bytes_after(CollectiveKind /*kind*/, std::int32_t /*members*/, Bytes bytes) const {
  return bytes;
}

void CustomCollective::start(StreamContext& stream) {
  const NpuGraph& graph = structure_->graphs[static_cast<std::size_t>(stream.phase().members.me)];
  stream.progress().run = runs_.take();
  Run& run = runs_[stream.progress().run];
  run.parents_left = graph.parent_counts;
  run.nodes_left = graph.nodes.size();
  for (const std::uint32_t root : graph.roots) issue(stream, graph, root);
}

void CustomCollective::on_bus_trip_end(StreamContext& /*stream*/) {}

void CustomCollective::on_message(StreamContext& /*stream*/) {}

void CustomCollective::on_node_end(StreamContext& stream, std::uint32_t node) {
  const NpuGraph& graph = structure_->graphs[static_cast<std::size_t>(stream.phase().members.me)];
  Run& run = runs_[stream.progress().run];
  const TemplateNode& ended = graph.nodes[node];
  for (std::uint32_t c = ended.first_child; c < ended.last_child; ++c) {
    const std::uint32_t child = graph.children[c];
    if (--run.parents_left[child] == 0) issue(stream, graph, child);
  }
  if (--run.nodes_left > 0) return;
  runs_.give_back(stream.progress().run);
  stream.finish_phase();
}

void CustomCollective::issue(StreamContext& stream, const NpuGraph& graph, std::uint32_t index) const {
  const TemplateNode& node = graph.nodes[index];
  if (node.kind == NodeKind::kCompute) {
    stream.compute_node(std::max<Time>(durations_ns_[static_cast<std::size_t>(node.duration_slot)], 1),
                        index);
    return;
  }
  const NpuId peer = stream.phase().members.at(node.peer);
  const Bytes bytes = sizes_[static_cast<std::size_t>(node.size_slot)];
  if (node.kind == NodeKind::kSend) {
    stream.send_node(peer, bytes, node.tag, index);
  } else {
    stream.receive_node(peer, bytes, node.tag, index);
  }
}

}  // namespace astra
