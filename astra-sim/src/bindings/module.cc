// The Python module astra_sim._engine: arrays and plain values in, completions out.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
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

/// (finish, compute, cpu, communication, memory) in ns, and nodes finished.
std::tuple<Time, Time, Time, Time, Time, std::uint64_t> npu_stats(const Simulation& simulation, NpuId npu) {
  if (npu < 0 || npu >= simulation.npus()) throw nb::index_error("no such NPU");
  const Npu& state = simulation.workload().npu(npu);
  return {state.finish_ns,         state.compute_ns,    state.cpu_ns, state.communication.total_ns(),
          state.memory.total_ns(), state.nodes_finished};
}

void bind_specs(nb::module_& module) {
  nb::enum_<Wiring>(module, "Wiring")
      .value("RING", Wiring::kRing)
      .value("SWITCH", Wiring::kSwitch)
      .value("FULLY_CONNECTED", Wiring::kFullyConnected);
  nb::class_<Dimension>(module, "Dimension")
      .def(nb::init<Wiring, std::int32_t, double, double>(), "wiring"_a, "npus"_a, "bandwidth_gbps"_a,
           "latency_ns"_a);
  nb::class_<MemorySpec>(module, "MemorySpec")
      .def(nb::init<std::string, Time, double, std::vector<std::int32_t>>(), "type"_a, "latency_ns"_a,
           "bandwidth_gbps"_a, "nodes"_a);
  nb::class_<SystemSpec>(module, "SystemSpec")
      .def(nb::init<>())
      .def_rw("endpoint_delay_ns", &SystemSpec::endpoint_delay_ns)
      .def_rw("active_chunks", &SystemSpec::active_chunks)
      .def_rw("splits", &SystemSpec::splits)
      .def_rw("local_bandwidth_aware", &SystemSpec::local_bandwidth_aware)
      .def_rw("local_mem_bw_gbps", &SystemSpec::local_mem_bw_gbps)
      .def_rw("peak_tflops", &SystemSpec::peak_tflops)
      .def_rw("roofline", &SystemSpec::roofline)
      .def_rw("replay_only", &SystemSpec::replay_only)
      .def_rw("all_reduce", &SystemSpec::all_reduce)
      .def_rw("all_gather", &SystemSpec::all_gather)
      .def_rw("reduce_scatter", &SystemSpec::reduce_scatter)
      .def_rw("all_to_all", &SystemSpec::all_to_all);
}

void bind_simulation(nb::module_& module) {
  nb::class_<Template>(module, "Template");
  nb::class_<Simulation>(module, "Simulation")
      .def(
          "__init__",
          [](Simulation* self, std::string backend, std::vector<Dimension> dimensions, SystemSpec system,
             std::vector<MemorySpec> memories, int replies, int requests) {
            new (self) Simulation({std::move(backend), std::move(dimensions), std::move(system),
                                   std::move(memories), pipe_ends(replies, requests)});
          },
          "backend"_a, "dimensions"_a, "system"_a, "memories"_a, "replies"_a = -1, "requests"_a = -1)
      .def(
          "compile",
          [](const Simulation& self, nb::sequence graphs) {
            return Template{self.compile(read_graphs(std::move(graphs)))};
          },
          "graphs"_a)
      .def("submit", &submit, "template"_a, "npus"_a, "durations_ns"_a.noconvert(), "sizes"_a.noconvert(),
           "at_ns"_a)
      .def("advance", &advance, "until_ns"_a.none())
      .def("stall_report", &Simulation::stall_report)
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
  astra::bind_specs(module);
  astra::bind_simulation(module);
}
