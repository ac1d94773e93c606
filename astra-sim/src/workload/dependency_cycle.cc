#include "workload/dependency_cycle.h"

#include <algorithm>
#include <vector>

namespace astra {
namespace {

std::string label(const NpuGraph& graph, std::uint32_t node) {
  return std::to_string(graph.ids[node]) + (graph.names[node].empty() ? "" : " (" + graph.names[node] + ")");
}

// Parents left of each node after all nodes that can ever run have run.
std::vector<std::uint32_t> unreachable(const NpuGraph& graph) {
  std::vector<std::uint32_t> waiting = graph.parent_counts;
  std::vector<std::uint32_t> ready = graph.roots;
  while (!ready.empty()) {
    const TemplateNode& node = graph.nodes[ready.back()];
    ready.pop_back();
    for (std::uint32_t c = node.first_child; c < node.last_child; ++c) {
      if (--waiting[graph.children[c]] == 0) ready.push_back(graph.children[c]);
    }
  }
  return waiting;
}

}  // namespace

std::string describe_cycle(const NpuGraph& graph) {
  const std::vector<std::uint32_t> waiting = unreachable(graph);
  const auto size = static_cast<std::uint32_t>(graph.nodes.size());
  std::vector<std::uint32_t> parent(size, size);  // one stuck parent of each stuck node
  std::uint32_t node = size;
  for (std::uint32_t from = 0; from < size; ++from) {
    if (waiting[from] == 0) continue;
    node = from;
    for (std::uint32_t c = graph.nodes[from].first_child; c < graph.nodes[from].last_child; ++c) {
      parent[graph.children[c]] = from;
    }
  }
  if (node == size) return "";
  for (std::uint32_t step = 0; step < size; ++step) node = parent[node];  // now surely on a cycle
  for (std::uint32_t walk = parent[node], end = node; walk != end; walk = parent[walk]) {
    node = std::min(node, walk);  // begin with the smallest id
  }
  std::string text = label(graph, node);
  std::uint32_t walk = node;
  do {
    walk = parent[walk];
    text = label(graph, walk) + " -> " + text;
  } while (walk != node);
  return text;
}

}  // namespace astra
