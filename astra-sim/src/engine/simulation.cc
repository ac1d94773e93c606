#include "engine/simulation.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "system/custom_collective.h"
#include "workload/template_builder.h"

namespace astra {
namespace {

NpuClocks make_clocks(std::int32_t npus, EventQueue& queue) {
  NpuClocks clocks;
  for (std::int32_t npu = 0; npu < npus; ++npu) clocks.push_back(std::make_unique<NpuClock>(queue));
  return clocks;
}

void require(bool fits, const std::string& message) {
  if (!fits) throw std::invalid_argument(message);
}

// Delays are computed in double, which counts exactly up to 2^53.
void require_sane(std::span<const std::int64_t> numbers, const std::string& name) {
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  for (const std::int64_t number : numbers) {
    require(number >= 0, name + " must not be negative");
    require(number <= kMost, name + " must not be above 2^53: " + std::to_string(number));
  }
}

}  // namespace

Simulation::Simulation(SimulationSpec spec)
    : system_(std::move(spec.system)),
      topology_(std::move(spec.dimensions)),
      clocks_(make_clocks(topology_.npus(), queue_)),
      network_(
          make_network(spec.network_backend, {topology_, queue_, recorder_, std::move(spec.network_pipe)})),
      mailbox_(*network_, queue_, system_.rendezvous),
      collectives_(system_, topology_, queue_, clocks_, mailbox_),
      workload_(system_, {queue_, clocks_, mailbox_, collectives_, memories_, recorder_}) {
  for (const MemorySpec& memory : spec.memories) {
    memories_.push_back(make_memory(memory, queue_, clocks_));
    pim_channels_.push_back(memories_.back() != nullptr ? memory.pim_channels : kAbsent);
  }
  add_customs(std::move(spec.customs));
}

// Compute nodes of a custom collective take their durations, whatever the system says of others.
void Simulation::add_customs(std::vector<CustomSpec> customs) {
  SystemSpec system;
  for (std::size_t i = 0; i < customs.size(); ++i) {
    CustomSpec& custom = customs[i];
    try {
      auto graphs = TemplateBuilder({topology_, system, collectives_.planner(), {}}).build(custom.graphs);
      require(custom.durations_ns.size() >= static_cast<std::size_t>(graphs->durations_needed) &&
                  custom.sizes.size() >= static_cast<std::size_t>(graphs->sizes_needed),
              "a slot has no number");
      require_sane(custom.durations_ns, "durations_ns");
      require_sane(custom.sizes, "sizes");
      collectives_.add_custom(std::make_unique<CustomCollective>(
          std::move(graphs), std::move(custom.durations_ns), std::move(custom.sizes)));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("custom collective " + std::to_string(i) + ": " + error.what());
    }
  }
}

std::shared_ptr<const GraphTemplate> Simulation::compile(
    const std::vector<std::vector<NodeSpec>>& graphs) const {
  return TemplateBuilder({topology_, system_, collectives_.planner(), pim_channels_}).build(graphs);
}

TicketNumber Simulation::submit(std::shared_ptr<const GraphTemplate> structure, std::span<const NpuId> npus,
                                std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at) {
  check_fit(*structure, npus, durations_ns, sizes, at);
  check_all_gathers(*structure, sizes);
  return workload_.submit(std::move(structure), npus, durations_ns, sizes, at);
}

std::vector<Completion> Simulation::advance(std::optional<Time> until) {
  if (until) require(*until >= now(), "until_ns lies in the past");
  Time limit = until.value_or(kForever);
  while (has_event(limit)) {
    const Time tick = queue_.next_time();
    while (!queue_.empty() && queue_.next_time() == tick) queue_.run_next();
    if (workload_.has_completions()) limit = tick;
  }
  if (until && !workload_.has_completions()) queue_.move_to(*until);
  return workload_.take_completions();
}

bool Simulation::has_event(Time limit) {
  network_->catch_up(queue_.empty() ? limit : std::min(limit, queue_.next_time()));
  return !queue_.empty() && queue_.next_time() <= limit;
}

std::uint64_t Simulation::events() const {
  std::uint64_t total = queue_.events_run();  // counts each tick of an NPU once
  for (const auto& clock : clocks_) total += clock->callbacks_run() - clock->ticks_run();
  return total;
}

void Simulation::check_fit(const GraphTemplate& structure, std::span<const NpuId> npus,
                           std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at) const {
  require(at >= now(), "at_ns " + std::to_string(at) + " lies in the past: now is " + std::to_string(now()));
  require(npus.size() == structure.graphs.size(),
          "the template has " + std::to_string(structure.graphs.size()) + " graphs, but " +
              std::to_string(npus.size()) + " NPUs are given");
  for (std::size_t i = 0; i < npus.size(); ++i) {
    require(npus[i] >= 0 && npus[i] < topology_.npus(), "NPU " + std::to_string(npus[i]) +
                                                            " does not exist: the network has " +
                                                            std::to_string(topology_.npus()));
    for (std::size_t j = 0; j < i; ++j) {
      require(npus[i] != npus[j], "NPU " + std::to_string(npus[i]) + " is given twice");
    }
  }
  require(durations_ns.size() >= static_cast<std::size_t>(structure.durations_needed),
          "the template needs " + std::to_string(structure.durations_needed) + " durations_ns, got " +
              std::to_string(durations_ns.size()));
  require(sizes.size() >= static_cast<std::size_t>(structure.sizes_needed),
          "the template needs " + std::to_string(structure.sizes_needed) + " sizes, got " +
              std::to_string(sizes.size()));
  require_sane(durations_ns, "durations_ns");
  require_sane(sizes, "sizes");
}

void Simulation::check_all_gathers(const GraphTemplate& structure, std::span<const Bytes> sizes) const {
  for (const AllGatherSlot& gather : structure.all_gathers) {
    const Bytes bytes = sizes[static_cast<std::size_t>(gather.size_slot)];
    if (bytes >= system_.splits) continue;
    const NpuGraph& graph = structure.graphs[gather.position];
    throw std::invalid_argument(
        describe(gather.position, graph.ids[gather.node], graph.names[gather.node]) + ": an all-gather of " +
        std::to_string(bytes) +
        " bytes cannot be cut into preferred-dataset-splits = " + std::to_string(system_.splits) + " chunks");
  }
}

}  // namespace astra
