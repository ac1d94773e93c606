#include "bindings/graph_reader.h"

#include <nanobind/stl/string.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace astra {
namespace {

// A value of a node as a C++ one; what does not fit (a number above 2^63, a broken string) is bad input.
template <typename T>
T fitted(nb::handle value, const char* name) {
  T result;
  if (!nb::try_cast<T>(value, result)) {
    throw std::invalid_argument(std::string("a node's ") + name +
                                " is out of range or of a wrong type: " + nb::repr(value).c_str());
  }
  return result;
}

template <typename T>
T field(nb::handle node, const char* name) {
  return fitted<T>(node.attr(name), name);
}

std::int32_t optional_field(nb::handle node, const char* name) {
  const nb::object value = node.attr(name);
  return value.is_none() ? kAbsent : fitted<std::int32_t>(value, name);
}

template <typename T>
void append(nb::handle node, const char* name, std::vector<T>& values) {
  for (const nb::handle value : nb::cast<nb::tuple>(node.attr(name))) {
    values.push_back(fitted<T>(value, name));
  }
}

NodeSpec read_node(nb::handle node) {
  NodeSpec spec;
  spec.id = field<std::int64_t>(node, "node_id");
  spec.name = field<std::string>(node, "name");
  spec.kind = static_cast<NodeKind>(field<int>(node, "kind"));
  append(node, "data_deps", spec.parents);
  append(node, "ctrl_deps", spec.parents);
  spec.duration_slot = optional_field(node, "duration_slot");
  spec.size_slot = optional_field(node, "size_slot");
  spec.ops_slot = optional_field(node, "ops_slot");
  const nb::object collective = node.attr("collective");
  spec.has_collective = !collective.is_none();
  if (spec.has_collective) spec.collective = static_cast<CollectiveKind>(nb::cast<int>(collective));
  append(node, "group", spec.group);
  append(node, "involved_dims", spec.involved_dimensions);
  spec.peer = optional_field(node, "peer");
  spec.tag = field<std::int64_t>(node, "tag");
  spec.is_cpu_op = field<bool>(node, "is_cpu_op");
  spec.copy_engine = field<bool>(node, "copy_engine");
  spec.memory = field<std::int32_t>(node, "memory");
  spec.pim_channel = optional_field(node, "pim_channel");
  spec.part = field<std::int64_t>(node, "part");
  return spec;
}

}  // namespace

std::vector<std::vector<NodeSpec>> read_graphs(nb::sequence graphs) {
  std::vector<std::vector<NodeSpec>> result;
  for (const nb::handle graph : graphs) {
    std::vector<NodeSpec>& nodes = result.emplace_back();
    for (const nb::handle node : nb::cast<nb::sequence>(graph.attr("nodes"))) {
      nodes.push_back(read_node(node));
    }
  }
  return result;
}

}  // namespace astra
