// The Python module astra_sim._engine: arrays and plain values in, completions out.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/graph_reader.h"
#include "engine/simulation.h"
#include "network/pipe_network.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace astra {
namespace {

using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using CompletionTuple = std::tuple<TicketNumber, std::int64_t, Time>;

/// A compiled template as Python holds it.
struct Template {
  std::shared_ptr<const GraphTemplate> structure;
};

std::span<const std::int64_t> view(const Numbers& numbers) {
  return {numbers.data(), numbers.shape(0)};
}

/// Take over the descriptors of the pipes to a network process; -1: there is none.
PipeEnds pipe_ends(int replies, int requests) {
  return {FileDescriptor(replies), FileDescriptor(requests)};
}

TicketNumber submit(Simulation& simulation, const Template& structure, const std::vector<NpuId>& npus,
                    const Numbers& durations_ns, const Numbers& sizes, Time at_ns) {
  return simulation.submit(structure.structure, npus, view(durations_ns), view(sizes), at_ns);
}

std::vector<CompletionTuple> advance(Simulation& simulation, std::optional<Time> until_ns) {
  std::vector<CompletionTuple> result;
  for (const Completion& done : simulation.advance(until_ns)) {
    result.emplace_back(done.ticket, done.part, done.finish_ns);
  }
  return result;
}

/// (finish, compute, cpu, communication, memory) in ns, nodes finished, and of the roofline (total, compute
/// bound) in ns, operations and bytes.
std::tuple<Time, Time, Time, Time, Time, std::uint64_t, Time, Time, Bytes, Bytes> npu_stats(
    const Simulation& simulation, NpuId npu) {
  if (npu < 0 || npu >= simulation.npus()) throw nb::index_error("no such NPU");
  const Npu& state = simulation.workload().npu(npu);
  return {state.finish_ns,
          state.compute_ns,
          state.cpu_ns,
          state.communication.total_ns(),
          state.memory.total_ns(),
          state.nodes_finished,
          state.roofline.total_ns,
          state.roofline.compute_bound_ns,
          state.roofline.operations,
          state.roofline.bytes};
}

/// (npu, node id, name, cause, index of the node it waits for or -1) of every unfinished node.
std::vector<std::tuple<NpuId, std::int64_t, std::string, std::string, std::int64_t>> stall_report(
    const Simulation& simulation) {
  std::vector<std::tuple<NpuId, std::int64_t, std::string, std::string, std::int64_t>> result;
  for (const BlockedNode& node : simulation.stall_report()) {
    result.emplace_back(node.npu, node.node_id, node.name, node.cause, node.blocker);
  }
  return result;
}

/// (npu, node id, begin ns, end ns) of every recorded node; end is -1 while it runs.
std::vector<std::tuple<NpuId, std::int64_t, Time, Time>> node_spans(Simulation& simulation) {
  std::vector<std::tuple<NpuId, std::int64_t, Time, Time>> result;
  for (const NodeSpan& span : simulation.recorder().nodes()) {
    result.emplace_back(span.npu, span.node_id, span.begin, span.end);
  }
  return result;
}

/// (link name, source, destination, bytes, begin ns, end ns) of every recorded message on a link.
std::vector<std::tuple<std::string, NpuId, NpuId, Bytes, Time, Time>> link_spans(Simulation& simulation) {
  std::vector<std::tuple<std::string, NpuId, NpuId, Bytes, Time, Time>> result;
  for (const LinkSpan& span : simulation.recorder().links()) {
    result.emplace_back(simulation.network().link_name(span.link), span.source, span.destination, span.bytes,
                        span.begin, span.end);
  }
  return result;
}

void bind_specs(nb::module_& module) {
  nb::class_<Dimension>(module, "Dimension")
      .def(
          "__init__",
          [](Dimension* self, const std::string& wiring, std::int32_t npus, double bandwidth_gbps,
             double latency_ns) {
            new (self) Dimension{find_wiring(wiring), npus, bandwidth_gbps, latency_ns};
          },
          "wiring"_a, "npus"_a, "bandwidth_gbps"_a, "latency_ns"_a);
  module.def("topologies", &wiring_names, "The names of topologies.");
  module.def(
      "check_algorithm", [](const std::string& name) { static_cast<void>(make_algorithm(name)); }, "name"_a,
      "Raise ValueError if there is no collective algorithm of that name.");
  nb::class_<MemorySpec>(module, "MemorySpec")
      .def(
          "__init__",
          [](MemorySpec* self, std::string type, Time latency_ns, double bandwidth_gbps,
             std::vector<std::int32_t> nodes, const std::vector<std::pair<Time, double>>& node_speeds,
             std::int32_t pim_channels) {
            new (self)
                MemorySpec{std::move(type), {latency_ns, bandwidth_gbps}, std::move(nodes), {}, pim_channels};
            for (const auto& [latency, bandwidth] : node_speeds) {
              self->node_speeds.push_back({latency, bandwidth});
            }
          },
          "type"_a, "latency_ns"_a, "bandwidth_gbps"_a, "nodes"_a, "node_speeds"_a, "pim_channels"_a);
  nb::class_<SystemSpec>(module, "SystemSpec")
      .def(nb::init<>())
      .def_rw("endpoint_delay_ns", &SystemSpec::endpoint_delay_ns)
      .def_rw("active_chunks", &SystemSpec::active_chunks)
      .def_rw("splits", &SystemSpec::splits)
      .def_rw("queues_per_dimension", &SystemSpec::queues_per_dimension)
      .def_rw("rendezvous", &SystemSpec::rendezvous)
      .def_rw("local_bandwidth_aware", &SystemSpec::local_bandwidth_aware)
      .def_rw("local_mem_bw_gbps", &SystemSpec::local_mem_bw_gbps)
      .def_rw("peak_tflops", &SystemSpec::peak_tflops)
      .def_rw("roofline", &SystemSpec::roofline)
      .def_rw("replay_only", &SystemSpec::replay_only)
      .def_rw("algorithms", &SystemSpec::algorithms)
      .def_rw("custom_of_kind", &SystemSpec::custom_of_kind)
      .def_rw("custom_of_node", &SystemSpec::custom_of_node);
  nb::class_<CustomSpec>(module, "CustomSpec")
      .def(
          "__init__",
          [](CustomSpec* self, nb::sequence graphs, std::vector<Time> durations_ns,
             std::vector<Bytes> sizes) {
            new (self) CustomSpec{read_graphs(std::move(graphs)), std::move(durations_ns), std::move(sizes)};
          },
          "graphs"_a, "durations_ns"_a, "sizes"_a);
}

void bind_simulation(nb::module_& module) {
  nb::class_<Template>(module, "Template");
  nb::class_<Simulation>(module, "Simulation")
      .def(
          "__init__",
          [](Simulation* self, std::string backend, std::vector<Dimension> dimensions, SystemSpec system,
             std::vector<MemorySpec> memories, std::vector<CustomSpec> customs, int replies, int requests) {
            new (self) Simulation({std::move(backend), std::move(dimensions), std::move(system),
                                   std::move(memories), pipe_ends(replies, requests), std::move(customs)});
          },
          "backend"_a, "dimensions"_a, "system"_a, "memories"_a, "customs"_a, "replies"_a = -1,
          "requests"_a = -1)
      .def(
          "compile",
          [](const Simulation& self, nb::sequence graphs) {
            return Template{self.compile(read_graphs(std::move(graphs)))};
          },
          "graphs"_a)
      .def("submit", &submit, "template"_a, "npus"_a, "durations_ns"_a.noconvert(), "sizes"_a.noconvert(),
           "at_ns"_a)
      .def("advance", &advance, "until_ns"_a.none())
      .def("stall_report", &stall_report)
      .def("record", [](Simulation& self) { self.recorder().enable(); })
      .def("node_spans", &node_spans)
      .def("link_spans", &link_spans)
      .def("npu_stats", &npu_stats, "npu"_a)
      .def_prop_ro("now_ns", &Simulation::now)
      .def_prop_ro("events", &Simulation::events)
      .def_prop_ro("nodes_finished", [](const Simulation& self) { return self.workload().nodes_finished(); })
      .def_prop_ro("p2p_bytes", [](const Simulation& self) { return self.workload().p2p_bytes(); })
      .def_prop_ro("collective_bytes", &Simulation::collective_bytes)
      .def_prop_ro("tickets_active", [](const Simulation& self) { return self.workload().tickets_active(); });
}

}  // namespace
}  // namespace astra

NB_MODULE(_engine, module) {
  module.doc() = "Compiled discrete-event engine; use it through astra_sim.Engine.";
  nanobind::exception<astra::NetworkError>(module, "NetworkError", PyExc_RuntimeError);
  astra::bind_specs(module);
  astra::bind_simulation(module);
}
