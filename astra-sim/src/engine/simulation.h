#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "network/mailbox.h"
#include "system/collective_engine.h"
#include "workload/workload.h"

namespace astra {

/// A custom collective as described by the caller: a graph per rank, and the numbers of their slots.
struct CustomSpec {
  std::vector<std::vector<NodeSpec>> graphs;
  std::vector<Time> durations_ns;
  std::vector<Bytes> sizes;
};

/// Everything a simulation is built from.
struct SimulationSpec {
  std::string network_backend = "unaware";
  std::vector<Dimension> dimensions;
  SystemSpec system;
  std::vector<MemorySpec> memories;
  PipeEnds network_pipe;            ///< to the process that simulates network backend 'pipe'
  std::vector<CustomSpec> customs;  ///< numbered as in system.custom_of_kind and custom_of_node
};

/// One simulation: the clock, the network, the memories, the NPUs and the graphs they execute.
class Simulation {
 public:
  /// Build it; throws std::invalid_argument for what is not supported.
  explicit Simulation(SimulationSpec spec);

  /// Check and pack graphs, one per NPU of a later submission; throws std::invalid_argument.
  [[nodiscard]] std::shared_ptr<const GraphTemplate> compile(
      const std::vector<std::vector<NodeSpec>>& graphs) const;

  /// Submit a template to start at `at` (ns); throws std::invalid_argument if the arguments do not fit it.
  TicketNumber submit(std::shared_ptr<const GraphTemplate> structure, std::span<const NpuId> npus,
                      std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at);

  /// Run until the end of the tick in which the first parts complete, at most until `until` (ns, included).
  ///
  /// Without completions the clock stands at `until`; without `until` all events have run.
  [[nodiscard]] std::vector<Completion> advance(std::optional<Time> until);

  /// Every unfinished node and what it waits for.
  [[nodiscard]] std::vector<BlockedNode> stall_report() const { return workload_.stall_report(); }

  /// Current time in ns.
  [[nodiscard]] Time now() const { return queue_.now(); }
  /// The executor, for statistics.
  [[nodiscard]] const Workload& workload() const { return workload_; }
  /// Bytes sent by collectives so far.
  [[nodiscard]] Bytes collective_bytes() const { return collectives_.bytes_sent(); }
  /// What has been recorded for a timeline; enable it before the first submission.
  [[nodiscard]] Recorder& recorder() { return recorder_; }
  /// The network, for the names of its links.
  [[nodiscard]] const Network& network() const { return *network_; }
  /// Number of NPUs of the system.
  [[nodiscard]] std::int32_t npus() const { return topology_.npus(); }
  /// Events run so far: callbacks of NPUs, landings of messages, starts of tickets.
  [[nodiscard]] std::uint64_t events() const;

 private:
  [[nodiscard]] bool has_event(Time limit);
  void add_customs(std::vector<CustomSpec> customs);
  void check_fit(const GraphTemplate& structure, std::span<const NpuId> npus,
                 std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at) const;
  void check_all_gathers(const GraphTemplate& structure, std::span<const Bytes> sizes) const;

  SystemSpec system_;
  Topology topology_;
  EventQueue queue_;
  NpuClocks clocks_;
  Recorder recorder_;
  std::unique_ptr<Network> network_;
  Mailbox mailbox_;
  std::vector<std::unique_ptr<Memory>> memories_;
  std::vector<std::int32_t> pim_channels_;  // by memory; kAbsent: there is none of this number
  CollectiveEngine collectives_;
  Workload workload_;
};

}  // namespace astra
