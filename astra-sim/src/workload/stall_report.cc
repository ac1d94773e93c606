// Why nothing moves any more: the part of Workload that explains unfinished nodes.

#include <string>
#include <vector>

#include "workload/workload.h"

namespace astra {
namespace {

std::string label(const NpuGraph& graph, std::uint32_t node) {
  return std::to_string(graph.ids[node]) + (graph.names[node].empty() ? "" : " (" + graph.names[node] + ")");
}

std::string unfinished_parents(const GraphRun& run, std::uint32_t child) {
  std::string text;
  const NpuGraph& graph = *run.graph;
  for (std::uint32_t parent = 0; parent < graph.nodes.size(); ++parent) {
    if (run.parents_left[parent] == GraphRun::kFinished) continue;
    const TemplateNode& node = graph.nodes[parent];
    for (std::uint32_t c = node.first_child; c < node.last_child; ++c) {
      if (graph.children[c] == child) text += (text.empty() ? "" : ", ") + label(graph, parent);
    }
  }
  return text;
}

std::string message(const MessageKey& key) {
  return "a message of " + std::to_string(key.bytes) + " bytes from NPU " + std::to_string(key.source);
}

}  // namespace

std::vector<std::string> Workload::stall_report() const {
  std::vector<std::string> lines;
  const std::vector<Mailbox::PostedReceive> posted = hardware_.mailbox.posted();
  for (const std::uint32_t ticket : active_) {
    for (const std::uint32_t handle : tickets_[ticket].runs) {
      const GraphRun& run = runs_[handle];
      for (std::uint32_t node = 0; node < run.graph->nodes.size(); ++node) {
        if (run.parents_left[node] == GraphRun::kFinished) continue;
        lines.push_back("NPU " + std::to_string(run.npu) + ", node " + label(*run.graph, node) + ": " +
                        waits_for(handle, node, posted));
      }
    }
  }
  return lines;
}

std::string Workload::waits_for(std::uint32_t handle, std::uint32_t index,
                                const std::vector<Mailbox::PostedReceive>& posted) const {
  const GraphRun& run = runs_[handle];
  const TemplateNode& node = run.graph->nodes[index];
  if (run.parents_left[index] == 0) {
    return "not issued: its unit is busy, or nothing of this NPU finished after the node became free";
  }
  if (run.parents_left[index] != GraphRun::kRunning) {
    return "waits for node " + unfinished_parents(run, index);
  }
  for (const Mailbox::PostedReceive& receive : posted) {
    Callback owner = receive.received;
    if (owner.handler == &hardware_.collectives) owner = hardware_.collectives.owner_of(owner.argument);
    if (owner.handler != this || owner.argument != pack(handle, index)) continue;
    if (node.kind == NodeKind::kReceive) {
      return "waits for " + message(receive.key) + " with tag " + std::to_string(receive.key.tag) +
             "; no matching send has landed";
    }
    return "collective waits for " + message(receive.key) +
           ", which has not joined it, or not with this size and in this order";
  }
  return "in progress";
}

}  // namespace astra
